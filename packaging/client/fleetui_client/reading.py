"""JSON as the server sends it becomes the dataclasses of answers.py, and back."""

import dataclasses
import types
import typing
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from fleetui_client.errors import BadAnswer

T = TypeVar("T")


def read(kind: type[T], told: Any) -> T:
    """An answer of this kind. A field that this client does not know is left out: a newer server says more."""
    try:
        found: T = _read(kind, told, getattr(kind, "__name__", str(kind)))
    except (TypeError, ValueError, KeyError) as error:
        raise BadAnswer(f"The server's answer can't be read ({error}); this client may be older or newer.") from None
    return found


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, told: Any, where: str) -> Any:
    if kind is Any:
        return told
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if told is None and type(None) in inner:
            return None
        (kind, *others) = [each for each in inner if each is not type(None)]
        return told if others else _read(kind, told, where)  # several are plain ones, such as int | float
    if origin is list:
        if not isinstance(told, list):
            raise TypeError(f"{where} is no list")
        return [_read(inner[0], each, where) for each in told]
    if origin is dict:
        if not isinstance(told, dict):
            raise TypeError(f"{where} is no object")
        return {name: _read(inner[1], each, where) for name, each in told.items()}
    if dataclasses.is_dataclass(kind):
        if not isinstance(told, dict):
            raise TypeError(f"{where} is no object")
        hints = _hints(kind)  # type: ignore[arg-type]  # it is a class
        return kind(**{name: _read(hint, told[name], f"{where}.{name}") for name, hint in hints.items()})  # type: ignore[operator]
    if kind is datetime:
        return datetime.fromisoformat(told)
    if kind is float and type(told) is int:
        return float(told)
    if not isinstance(told, kind) or (kind is int and isinstance(told, bool)):
        raise TypeError(f"{where} is {told!r}, no {kind.__name__}")
    return told


def plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value
