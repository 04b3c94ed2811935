"""JSON as the standard has it, for everything that is read from elsewhere or read elsewhere.

Python's own module writes NaN and Infinity, which no browser reads, and reads 1e400, lone surrogates and lists in lists
without end, which no database stores. What is written here has null for a number that is none; what is read is refused
with a sentence where it holds what nobody could keep.
"""

import json
import math
from typing import Any, NoReturn

LARGEST_INTEGER = 2**63  # what a database's widest column holds
DEEPEST = 64  # objects and lists within each other; nothing that is said here needs ten


class JSONError(ValueError):
    """A text that is no JSON, or that holds what can't be kept; the message says which."""


class StrictEncoder(json.JSONEncoder):
    """Also for whoever takes an encoder's class, as Django does."""

    def encode(self, o: Any) -> str:
        """As JSON's own encoder; a number that is none becomes null."""
        self.allow_nan = False
        try:
            return super().encode(o)
        except ValueError:  # rare, so that nothing else pays for the copy
            return super().encode(without_nan(o))


def dumps(value: Any, **options: Any) -> str:
    """JSON that every reader takes: null stands where a number is none."""
    return json.dumps(value, cls=StrictEncoder, **options)


def without_nan(value: Any) -> Any:
    """A copy in which each NaN or infinity is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {without_nan(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    return value


def loads(text: str | bytes) -> Any:
    """JSONError where it is no JSON, or no number, text or nesting that can be kept."""
    if isinstance(text, (bytes, bytearray)):
        try:
            text = text.decode("utf-8")  # Python's own would let lone surrogates pass
        except UnicodeDecodeError:
            raise JSONError("It is not JSON: it is no text in UTF-8.") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded)
    except JSONError:
        raise
    except RecursionError:
        raise JSONError(f"Its lists lie deeper in each other than {DEEPEST}.") from None
    except ValueError as error:
        raise JSONError(f"It is not JSON ({error}).") from None
    if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
        _check(value, 0)
    return value


def text_fault(text: str) -> str:
    """Why neither a database nor UTF-8 holds this text; "" where both do."""
    if "\0" in text:
        return "holds a NUL character, which no database stores; leave it out"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate), which no text in UTF-8 has; leave it out"
    return ""


def _refuse_constant(text: str) -> NoReturn:
    raise JSONError(f"{text} is no number in JSON; write null where there is none.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JSONError(f"{text[:40]} is too large for a number.")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or not -LARGEST_INTEGER <= (value := int(text)) < LARGEST_INTEGER:
        raise JSONError(f"{text[:40]} is too large for a whole number.")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise JSONError(f"Its lists lie deeper in each other than {DEEPEST}.")
    if isinstance(value, str):
        if fault := text_fault(value):
            raise JSONError(f"The text {ascii(value)[:60]} {fault}.")
    elif isinstance(value, dict):
        for key, each in value.items():
            _check(key, depth + 1)
            _check(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check(each, depth + 1)
