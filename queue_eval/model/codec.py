"""Writes and reads configs and results as JSON, and decides what they may hold.

`_plain` copies a value into dicts, lists, strings, numbers, booleans and None, turning tuples into lists,
members of a str or number Enum into their values, and numpy-like scalars and arrays (anything with `dtype`
and `tolist`) into numbers and lists. For any other value it raises an error with its path, or makes it text.

The processes that run user code import this module, so it imports next to nothing: not `json`, but the C
functions below it. To import `json` takes as long as the start of an interpreter, and for a small value half
of its work is preparation.
"""

from __future__ import annotations

from queue_eval.errors import ConfigError, ResultError, UsageError

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

FAIL_RETURN_VALUE = -3.4028235e38
"""Result of a failed or cancelled job, where no other is asked for: the minimum of float32."""

EXACT_FLOAT = 2**53
"""Floats hold every integer up to this one."""

MAX_CONFIG_BYTES = 32 * 2**20
MAX_RESULT_BYTES = 64 * 2**20
_MAX_DEPTH = 200
_INFINITY = float("inf")
_LONG_TEXT_BYTES = 2**14
"""From this length on a text is first checked for characters to escape. One without any is copied as it is,
which is three times faster."""
_ESCAPED = ('"', "\\", "\x7f", *map(chr, range(32)))
_ESCAPED_INSIDE = [character.encode() for character in _ESCAPED[1:]]
_HUGE_INT = "an integer of more digits than Python reads back (4300)"
_HUGE_INT_BITS = 14_284
_SHOWN_CHARACTERS = 12_000
"""How much of a result that cannot be kept the error shows: nearly all that an error may hold."""


class _DecoderSettings:
    """The attributes that the C scanner reads from a `json.JSONDecoder`."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


def _refuse(value: object) -> Any:
    raise TypeError(f"{_kind(value)} is not JSON")


class _Tools:
    """The C functions below `json`. They cannot be pickled, so a copy that is sent by value makes its own."""

    def __init__(self) -> None:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        self.scan = make_scanner(_DecoderSettings)  # type: ignore[arg-type]
        rest = (None, _refuse, encode_basestring_ascii, None, ":", ",")
        self.write = make_encoder(*rest, False, False, True)
        self.write_sorted = make_encoder(*rest, True, False, True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tools, ()


_tools = _Tools()


def encode(value: Any) -> str:
    """Compact JSON, ASCII only. NaN and infinities are written as Python's JSON reads them back."""
    is_long = type(value) is str and len(value) >= _LONG_TEXT_BYTES and value.isascii()
    if is_long and not any(character in value for character in _ESCAPED):
        return f'"{value}"'
    return "".join(_tools.write(value, 0))


def decode(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for a text that is nested too deeply to be read."""
    if len(text) >= _LONG_TEXT_BYTES and isinstance(text, bytes) and _is_unescaped(text):
        return str(memoryview(text)[1:-1], "ascii")
    try:
        whole = text if isinstance(text, str) else text.decode()
        value, end = _tools.scan(whole, 0)
        if end == len(whole):
            return value
    except (StopIteration, ValueError, RecursionError):
        pass  # `json` accepts white space around the value, and its error says what is wrong
    import json

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _is_unescaped(text: bytes) -> bool:
    """Whether this JSON text is one string in which nothing is escaped."""
    return (
        text[:1] == b'"' and text.find(b'"', 1) == len(text) - 1 and text.isascii()
        and not any(character in text for character in _ESCAPED_INSIDE)
    )  # fmt: skip


class _NotPlainError(Exception):
    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem


def encode_config(config: Any, position: int) -> tuple[dict[str, Any], str]:
    """Check and copy the config at `position` of a submission; return the copy and its JSON.

    Raises ConfigError with the position, the path and the type of a value that JSON cannot hold, and for a
    config above MAX_CONFIG_BYTES.
    """
    where = f"config {position}"
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: is {_kind(config)}; give a dict of JSON values")
    if "id" in config:
        raise ConfigError(f'{where}: "id" is the job\'s own key, set by queue_eval; rename it')
    try:
        copy = _plain(config, "", finite=True, depth=0)
    except _NotPlainError as error:
        raise ConfigError(f'{where}: "{error.path}" {error.problem}; configs hold JSON values only') from None
    try:
        text = encode(copy)
    except ValueError:  # Python's limit for converting ints to text
        raise ConfigError(f"{where}: holds {_HUGE_INT}; write it as text") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{where}: takes {len(text):,} bytes as JSON, more than {MAX_CONFIG_BYTES:,}; "
            "put large data in a file and its path in the config"
        )
    return copy, text


def encode_result(value: Any, *, as_text: bool = False) -> str:
    """JSON of what a run function returned. NaN and infinities are written as Python's JSON reads them back.

    `as_text`: a value that JSON cannot hold becomes its `str`. Else it raises ResultError with its path and
    type, and the text of the whole result. A result above MAX_RESULT_BYTES raises it, too.
    """
    if type(value).__name__ in ("generator", "async_generator"):
        as_text = False  # the body of the run function has not run yet, so there is no result
    try:
        plain = _plain(value, "result", finite=False, depth=0, as_text=as_text)
    except _NotPlainError as error:
        raise ResultError(
            f"the result cannot be serialised: {error.path} {error.problem}; "
            'return JSON values (numbers, strings, lists, dicts), or use values="text". '
            f"The result was {_shown(value)}"
        ) from None
    try:
        text = encode(plain)
    except ValueError:
        raise ResultError(
            f"the result cannot be serialised: it holds {_HUGE_INT}; return it as text. "
            f"The result was {_shown(value)}"
        ) from None
    if len(text) > MAX_RESULT_BYTES:
        raise ResultError(
            f"the result cannot be serialised: it takes {len(text):,} bytes as JSON, more than "
            f"{MAX_RESULT_BYTES:,}; write large data to a file and return its path. "
            f"The result was {_cut(text)}"
        )
    return text


def encode_options(name: str, value: Any) -> str:
    """JSON of other user input. Raises UsageError, in which `name` stands for it."""
    try:
        return encode(_plain(value, name, finite=True, depth=0))
    except _NotPlainError as error:
        raise UsageError(f"{error.path} {error.problem}; give JSON values only") from None
    except ValueError:
        raise UsageError(f"{name} holds {_HUGE_INT}; write it as text") from None


def canonical(config: dict[str, Any]) -> str:
    """JSON that is the same for all equal configs: keys are sorted."""
    return "".join(_tools.write_sorted(config, 0))


def _plain(value: Any, path: str, *, finite: bool, depth: int, as_text: bool = False) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value, path) if finite else value
    if kind is int:
        return hex(value) if as_text and value.bit_length() > _HUGE_INT_BITS else value
    if kind is bool or value is None:
        return value
    if kind is float:
        if finite and not _is_finite(value):
            raise _NotPlainError(path, f"is {value}")
        return value
    try:
        if depth > _MAX_DEPTH:
            raise _NotPlainError(path[:80], f"is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(value, dict):
            copy = {}
            for key, item in value.items():
                name = key if type(key) is str else _name(key, path, as_text=as_text)
                if finite:
                    _text(name, path or name.encode("ascii", "backslashreplace").decode())
                inner = f"{path}.{name}" if path else name
                copy[name] = _plain(item, inner, finite=finite, depth=depth + 1, as_text=as_text)
            if len(copy) < len(value):
                raise _NotPlainError(path, "has several keys with the same text")
            return copy
        if isinstance(value, (list, tuple)):
            return [
                _plain(item, f"{path}[{i}]", finite=finite, depth=depth + 1, as_text=as_text)
                for i, item in enumerate(value)
            ]
        unpacked = _unpacked(value, path, as_text=as_text)
        return _plain(unpacked, path, finite=finite, depth=depth + 1, as_text=as_text)
    except _NotPlainError:
        if not as_text:
            raise
        return _as_text(value)  # parts have become text already, where that helps


def _name(key: Any, path: str, *, as_text: bool) -> str:
    if isinstance(key, str):
        return str.__str__(key)  # str() of a member of an Enum is "Class.NAME"
    if as_text:
        return _as_text(key)
    raise _NotPlainError(path or str(key), f"has the key {key!r}, {_kind(key)} instead of a str")


def _unpacked(value: Any, path: str, *, as_text: bool) -> Any:
    """The number, text or list for a value that is no JSON value itself, but can be read as one."""
    if isinstance(value, type):  # first, because numpy's scalar types have the attributes of their scalars
        raise _NotPlainError(path, f"is the type {value.__name__}")
    try:
        if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
            if _holds_times(value.dtype):
                if as_text and getattr(value, "ndim", None):
                    return list(value)
                # `tolist` gives numbers for some units only, and does not say for which unit.
                raise _NotPlainError(path, f"is {_kind(value)} of type {value.dtype}")
            unpacked = value.tolist()
            if type(unpacked) is not type(value):
                return unpacked
            if getattr(value.dtype, "kind", "") == "f":  # a longdouble, which `tolist` leaves as it is
                return float(value)
        if isinstance(value, str):
            return str.__str__(value)
        for base in (int, float):
            if isinstance(value, base):
                return base(value)
    except _NotPlainError:
        raise
    except Exception as error:  # such as that of a tensor without data, or not stored as an array
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _NotPlainError(path, f"is {_kind(value)} that cannot be read as numbers ({reason})") from None
    raise _NotPlainError(path, f"is {_kind(value)}")


def _holds_times(dtype: Any) -> bool:
    """Whether a type is numpy's datetime64 or timedelta64, or has a field of one."""
    if getattr(dtype, "kind", "") in ("m", "M"):
        return True
    base = getattr(dtype, "base", dtype)
    if base is not dtype and _holds_times(base):
        return True
    fields = getattr(dtype, "fields", None) or {}
    return any(_holds_times(field[0]) for field in fields.values())


def _is_finite(value: float) -> bool:
    return -_INFINITY < value < _INFINITY


def _text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _NotPlainError(path, "is text with half of a surrogate pair") from None
    return value


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _as_text(value: Any) -> str:
    try:
        text = repr(value) if isinstance(value, (bytes, bytearray)) else str(value)
    except Exception as error:  # a hostile __repr__ must not hide the real error, nor lose a result
        return f"{_kind(value)} (its repr raises {type(error).__name__})"
    return str.__str__(text)


def _shown(value: Any) -> str:
    """A result that cannot be kept, as the JSON that it would be with ``values="text"``."""
    try:
        return _cut(encode(_plain(value, "result", finite=False, depth=0, as_text=True)))
    except Exception:  # user classes may raise anything
        return _cut(_as_text(value))


def _cut(text: str) -> str:
    """The first and the last part of a text that is too long for an error."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    half = _SHOWN_CHARACTERS // 2
    return f"{text[:half]}… ({len(text):,} characters) …{text[-half:]}"


def decode_tag(text: str | bytes) -> Any:
    """The tag of a job; None where there is none, or a damaged one."""
    try:
        return decode(text) if text else None
    except ValueError:
        return None
