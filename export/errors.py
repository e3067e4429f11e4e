"""What an export or a runtime refuses."""


class ExportError(RuntimeError):
    """An artefact could not be made, or does not compute what eager computes; no file is left."""


class CorruptedError(ValueError):
    """A file is not the one that the contract beside it was written for."""
