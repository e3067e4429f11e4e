"""What an export or a runtime refuses."""


class ExportError(RuntimeError):
    """An artefact could not be made, or does not compute what eager computes; no file is left."""


class CorruptedError(ValueError):
    """A file is damaged, of another kind, or not the one that its contract was written for."""


class InstallationError(RuntimeError):
    """What is installed cannot run a file."""


def said(error: BaseException) -> str:
    """What a library said, as the end of a sentence: one line, without where it said so."""
    text = str(error)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if isinstance(error, KeyError):
        return f"{text} is missing"
    if not lines:
        return type(error).__name__
    line = lines[-1] if "Traceback" in text else lines[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


_LONGEST = 300
