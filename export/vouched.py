"""Whether a file is the one that the contract beside it was written for; needs no runtime."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Optional

from compiled_rl.export.errors import CorruptedError, said
from compiled_rl.export.names import contract_of

_LARGEST = 1 << 26  # of a contract, in bytes


def contract_beside(path: Path) -> Optional[dict[str, Any]]:
    """The contract beside a file, which has the file's SHA-256; None where there is no contract.

    Raises:
        CorruptedError: it has another, or is no contract.
    """
    beside = contract_of(path)
    if not beside.is_file():
        return None
    try:
        if beside.stat().st_size > _LARGEST:
            raise ValueError(f"it must be at most {_LARGEST} bytes")
        contract = parsed(beside.read_bytes())
        expected = contract.pop("sha256")
    except (ValueError, KeyError) as error:
        raise CorruptedError(f"{beside} is corrupted, it is no contract: {said(error)}") from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise CorruptedError(
            f"{path} is corrupted, or of another export than {beside.name}: its SHA-256 must be "
            f"{expected!s:.12}…, got {digest:.12}…"
        )
    return contract


def check_same(path: Path, inside: Mapping[str, Any], beside: Optional[Mapping[str, Any]]) -> None:
    """Refuse a contract beside a file that says other things than the one inside it.

    Raises:
        CorruptedError: it does.
    """
    if beside is not None and beside != inside:
        raise CorruptedError(
            f"{contract_of(path)} is corrupted: it must say what the contract inside the file says"
        )


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none; NaN and infinity are no JSON, and neither is what is too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it must not be nested so deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object, got a {type(value).__name__}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"a number must be finite, got {constant}")
