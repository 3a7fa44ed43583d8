"""What JSON can carry to every language, and where a value can't."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

_MAX_INTEGER = 2**53
# What is written is plain, and contains nothing twice around: nobody has to look for that again.
_write = json.JSONEncoder(check_circular=False, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
# The worker's own limit is lower, and configurable; this one keeps the encoder within its stack.
_MAX_DEPTH = 256
_CONTAINERS = (dict, list, tuple)


class NotPortable(ValueError):
    """The message begins with the JSON pointer of the value."""


def encode(what: str, value: Any) -> str:
    """The value as JSON text, exactly; raises :class:`NotPortable` where that can't be said."""
    try:
        plain = _plain(what, value, (), set())
        text = _write(plain)
        # Half of a surrogate pair can only cross as an escape; the worker refuses it with its path.
        return text if _is_text(text) else json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except (RecursionError, MemoryError) as error:
        raise NotPortable(f"{what} is too deep or too large") from error


def _is_text(text: str) -> bool:
    try:
        return text.isascii() or text.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _refuse(what: str, path: tuple[Any, ...], why: str) -> NotPortable:
    pointer = "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)
    return NotPortable(f"{what}{' at ' + pointer if pointer else ''} {why}")


def _plain(what: str, value: Any, path: tuple[Any, ...], above: set[int]) -> Any:
    """The value of plain types, so that the encoder calls no code of the value's."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
            raise _refuse(what, path, "is an integer beyond ±2^53, which some languages would round; say it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _refuse(what, path, f"is {float(value)!r}, which is no number in JSON; say it as null or as text")
        return float(value)
    if len(path) > _MAX_DEPTH:
        raise _refuse(what, path[:8], f"is nested deeper than {_MAX_DEPTH} levels")
    value = value if type(value) in _CONTAINERS else _opened(value)
    if not isinstance(value, _CONTAINERS):
        raise _refuse(what, path, f"is of type {type(value).__name__}, which JSON has not; convert it first")
    if id(value) in above:
        raise _refuse(what, path, "contains itself")
    above.add(id(value))
    plain: Any
    if isinstance(value, dict):
        plain = _object(what, value, path, above)
    else:
        plain = [_plain(what, item, (*path, index), above) for index, item in enumerate(value)]
    above.discard(id(value))
    return plain


def _object(what: str, value: dict[Any, Any], path: tuple[Any, ...], above: set[int]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise _refuse(what, path, f"has the key {key!r} of type {type(key).__name__}; keys are text")
        plain[str.__str__(key)] = _plain(what, item, (*path, key), above)
    return plain


def _opened(value: Any) -> Any:
    """Models and dataclasses are what their fields say."""
    if isinstance(value, type):
        return value
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return value
