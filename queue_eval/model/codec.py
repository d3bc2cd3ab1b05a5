"""JSON on the wire: what a config or a result may hold, and how it is written.

`_plain` copies a value into dicts, lists, strings, numbers, booleans and None, turning tuples into lists,
members of a str or number Enum into their values, and numpy-like scalars and arrays (anything with `dtype`
and `tolist`) into numbers and lists. Whatever else it meets is named by its path, or becomes text.

This module is imported by the processes that run user code, so it imports next to nothing: of `json` only
what it is made of. The whole of it takes as long to import as an interpreter takes to start, and half of what
it does for a small value is preparing to do it.
"""

from __future__ import annotations

from queue_eval.errors import ConfigError, ResultError, UsageError

TYPE_CHECKING = False  # see `queue_eval`

if TYPE_CHECKING:
    from typing import Any

FAIL_RETURN_VALUE = -3.4028235e38
"""Result of a failed or cancelled job, where no other is asked for: the minimum of float32."""

EXACT_FLOAT = 2**53
"""Up to here floats hold every integer."""

MAX_CONFIG_BYTES = 32 * 2**20
MAX_RESULT_BYTES = 64 * 2**20
_MAX_DEPTH = 200
_INFINITY = float("inf")
_LONG = 2**14
"""From here on it is worth a look whether a text can be taken as it stands: that is three times faster."""
_ESCAPED = ('"', "\\", "\x7f", *map(chr, range(32)))
_ESCAPED_INSIDE = [character.encode() for character in _ESCAPED[1:]]
_HUGE_INT = "an integer of more digits than Python reads back (4300)"
_HUGE_INT_BITS = 14_284
_SHOWN_CHARACTERS = 12_000
"""Of a result that cannot be kept, so much is told in the error: nearly all that an error may hold."""


class _Reading:
    """What a scanner asks of its decoder."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


def _refuse(value: object) -> Any:
    raise TypeError(f"{_kind(value)} is not JSON")


class _Tools:
    """What `json` is made of. It cannot be pickled, but what is sent by value, as to Ray, makes its own."""

    def __init__(self) -> None:
        from _json import encode_basestring_ascii, make_encoder, make_scanner

        self.scan = make_scanner(_Reading)  # type: ignore[arg-type]
        rest = (None, _refuse, encode_basestring_ascii, None, ":", ",")
        self.write = make_encoder(*rest, False, False, True)
        self.write_sorted = make_encoder(*rest, True, False, True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tools, ()


_tools = _Tools()


def encode(value: Any) -> str:
    """Compact JSON, ASCII only; NaN and infinities are written as Python's JSON reads them back."""
    is_long = type(value) is str and len(value) >= _LONG and value.isascii()
    if is_long and not any(character in value for character in _ESCAPED):
        return f'"{value}"'
    return "".join(_tools.write(value, 0))


def decode(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for what is nested too deeply to be read."""
    if len(text) >= _LONG and isinstance(text, bytes) and _is_text_as_it_stands(text):
        return str(memoryview(text)[1:-1], "ascii")
    try:
        whole = text if isinstance(text, str) else text.decode()
        value, end = _tools.scan(whole, 0)
        if end == len(whole):
            return value
    except (StopIteration, ValueError, RecursionError):
        pass  # it is told well what is wrong, if anything is: there may be space around
    import json

    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _is_text_as_it_stands(text: bytes) -> bool:
    """Whether JSON is one string in which nothing is escaped."""
    return (
        text[:1] == b'"' and text.find(b'"', 1) == len(text) - 1 and text.isascii()
        and not any(character in text for character in _ESCAPED_INSIDE)
    )  # fmt: skip


class _NotPlainError(Exception):
    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what


def encode_config(config: Any, position: int) -> tuple[dict[str, Any], str]:
    """Check and copy the config at `position` of a submission; return the copy and its JSON.

    Raises ConfigError naming the position, the path and the type of what JSON cannot hold.
    """
    where = f"config {position}"
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: is {_kind(config)}; give a dict of JSON values")
    if "id" in config:
        raise ConfigError(f'{where}: "id" is the job\'s own key, set by queue_eval; rename it')
    try:
        copy = _plain(config, "", finite=True, depth=0)
    except _NotPlainError as error:
        raise ConfigError(f'{where}: "{error.path}" {error.what}; configs hold JSON values only') from None
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
    """JSON of what a run function returned; one that is not finite is written as Python's JSON reads it.

    `as_text`: what JSON cannot hold becomes its `str`; otherwise it raises ResultError, which names its path
    and type, and holds the text of the whole result.
    """
    if type(value).__name__ in ("generator", "async_generator"):
        as_text = False  # nothing of the run function has run yet: there is no result
    try:
        plain = _plain(value, "result", finite=False, depth=0, as_text=as_text)
    except _NotPlainError as error:
        raise ResultError(
            f"the result cannot be serialised: {error.path} {error.what}; "
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


def encode_options(what: str, value: Any) -> str:
    """JSON of other user input (`what` names it in the UsageError)."""
    try:
        return encode(_plain(value, what, finite=True, depth=0))
    except _NotPlainError as error:
        raise UsageError(f"{error.path} {error.what}; give JSON values only") from None


def canonical(config: dict[str, Any]) -> str:
    """The one text of all equal configs: the order of keys does not count."""
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
        return _as_text(value)  # what it holds has become text before, where that was possible


def _name(key: Any, path: str, *, as_text: bool) -> str:
    if isinstance(key, str):
        return str.__str__(key)  # str() of a member of an Enum is "Class.NAME"
    if as_text:
        return _as_text(key)
    raise _NotPlainError(path or str(key), f"has the key {key!r}, {_kind(key)} instead of a str")


def _unpacked(value: Any, path: str, *, as_text: bool) -> Any:
    """The number, text or list behind a value that is no JSON value itself, but stands for one."""
    if isinstance(value, type):  # also numpy's scalar types, which have all that their scalars have
        raise _NotPlainError(path, f"is the type {value.__name__}")
    try:
        if hasattr(value, "dtype") and callable(getattr(value, "tolist", None)):
            if _holds_times(value.dtype):
                if as_text and getattr(value, "ndim", None):
                    return list(value)
                # Only some units come as numbers from `tolist`, and nothing tells which unit that was.
                raise _NotPlainError(path, f"is {_kind(value)} of type {value.dtype}")
            unpacked = value.tolist()
            if type(unpacked) is not type(value):
                return unpacked
            if getattr(value.dtype, "kind", "") == "f":  # a longdouble, for which Python has no type
                return float(value)
        if isinstance(value, str):
            return str.__str__(value)
        for base in (int, float):
            if isinstance(value, base):
                return base(value)
    except _NotPlainError:
        raise
    except Exception as error:  # as of a tensor without data, or one that is not stored as an array
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _NotPlainError(path, f"is {_kind(value)} that cannot be read as numbers ({reason})") from None
    raise _NotPlainError(path, f"is {_kind(value)}")


def _holds_times(dtype: Any) -> bool:
    """Whether it is numpy's datetime64 or timedelta64, or has a field of these."""
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
