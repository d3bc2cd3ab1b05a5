from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
from pathlib import Path

import numpy as np
import pytest

from queue_eval.errors import ConfigError, ResultError, UsageError
from queue_eval.model.codec import (
    MAX_CONFIG_BYTES,
    canonical,
    decode,
    encode,
    encode_config,
    encode_options,
    encode_result,
)
from queue_eval.model.non_finite import is_finite


class Colour(str, enum.Enum):  # noqa: UP042 - what users write; a StrEnum's str() is its value anyway
    RED = "red"


class Size(int, enum.Enum):
    LARGE = 3


class Rate(float, enum.Enum):
    HIGH = 0.5


class Loud(str):
    def __str__(self):
        return "LOUD"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


class MetaTensor:
    """What a tensor without data, or one that is not stored as an array, does: its `tolist` raises."""

    dtype = "torch.float32"

    def tolist(self):
        raise NotImplementedError("Cannot copy out of meta tensor;\nno data!")

    def __repr__(self):
        return "tensor(..., device='meta')"


class Untouchable:
    @property
    def dtype(self):
        raise RuntimeError("not here")


TIMES = [
    *(np.datetime64(1, unit) for unit in ("Y", "M", "D", "h", "s", "ms", "us", "ns", "as")),
    *(np.timedelta64(1, unit) for unit in ("D", "us", "ns")),
    np.datetime64("NaT", "ns"), np.zeros(2, "M8[us]"), np.zeros(2, "M8[ns]"), np.array(1, "m8[ns]"),
    np.zeros(1, [("a", "i4"), ("t", "M8[ns]")]), np.zeros(1, [("t", "M8[ns]", (2,))]),
    np.array([np.datetime64(1, "ns")], dtype=object),
]  # fmt: skip


def test_a_config_is_copied():
    config = {"a": [1, {"b": None}]}
    copy, text = encode_config(config, 0)
    assert copy == config == decode(text)
    copy["a"][1]["b"] = 1
    assert config == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.str_("s"), "s"),
        (np.longdouble("0.1"), 0.1), (np.full(2, 0.5, np.longdouble), [0.5, 0.5]), (np.float16(0.5), 0.5),
        (Colour.RED, "red"), (Size.LARGE, 3), (Rate.HIGH, 0.5), ([Loud("quiet")], ["quiet"]),
        ({Colour.RED: 1}, {"red": 1}), (np.array(["a"]), ["a"]), (2**64 + 1, 2**64 + 1),
        (np.arange(3), [0, 1, 2]), (np.array(1.5), 1.5), (np.zeros((2, 1)), [[0.0], [0.0]]), ((1, 2), [1, 2]),
    ],
)  # fmt: skip
def test_numpy_enums_and_tuples_become_plain(value, plain):
    for got in (encode_config({"v": value}, 0)[0]["v"], decode(encode_result(value))):
        assert got == plain
        assert type(got) is type(plain)


@pytest.mark.parametrize(
    "value", ["it's", 'say "hi"', "käse 数 😀", "\x00\n\u2028", True, None, 10**30, -0.0, []]
)
def test_round_trip_is_exact(value):
    assert decode(encode_result(value)) == value
    assert encode_config({"v": value}, 0)[0]["v"] == value


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"a": {"b": [0, object()]}}, '"a.b[1]" is an object'),
        ({"a": {1: 2}}, "has the key 1, an int"),
        ({"a": math.nan}, '"a" is nan'),
        ({"a": {1, 2}}, '"a" is a set'),
        ({"a": b"x"}, '"a" is a bytes'),
        ({"a": [np.float64]}, '"a[0]" is the type float64'),
        ({"a": int}, '"a" is the type int'),
        ({"a": {"t": MetaTensor()}}, '"a.t" is a MetaTensor that cannot be read as numbers (NotImplemented'),
        ({"a": MetaTensor()}, "(NotImplementedError: Cannot copy out of meta tensor; no data!); configs "),
        ({"a": Untouchable()}, '"a" is an Untouchable that cannot be read as numbers (RuntimeError: not he'),
        ({"a": np.clongdouble(1)}, '"a" is a clongdouble'),
        ({"a": np.longdouble("1e400")}, '"a" is inf'),
        ({Colour.RED: object()}, '"red" is an object'),
        ({"id": 1}, '"id"'),
        ([1], "is a list"),
    ],
)
def test_what_json_cannot_hold_is_named(config, words):
    with pytest.raises(ConfigError) as error:
        encode_config(config, 7)
    assert "config 7" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("value", TIMES)
def test_times_of_every_unit_are_refused_alike(value):
    with pytest.raises(ConfigError, match=r'"a.t(\[0\])?" is an? \w+ of type .*(datetime|timedelta|M8)'):
        encode_config({"a": {"t": value}}, 0)
    with pytest.raises(ResultError, match=r"result\.t(\[0\])? is an? \w+ of type "):
        encode_result({"t": value})


def test_a_config_that_contains_itself_is_refused():
    config = {}
    config["me"] = config
    with pytest.raises(ConfigError, match="nested deeper"):
        encode_config(config, 0)


def test_a_huge_config_is_refused():
    with pytest.raises(ConfigError, match="put large data in a file"):
        encode_config({"a": "x" * (MAX_CONFIG_BYTES + 1)}, 0)


@pytest.mark.parametrize("length", [2**14 - 2, 2**14 - 1, 2**14, 2**16])
@pytest.mark.parametrize("special", ["", '"', "\\", "\n", "\0", "\x1f", "\x7f", "é", "😀", "\ud800"])
def test_a_long_text_is_written_and_read_as_json_does(length, special):
    for text in (special + "x" * length, "x" * length + special, "x" * length + special + "y"):
        assert encode(text) == json.dumps(text)
        assert decode(encode(text)) == decode(encode(text).encode()) == text


@pytest.mark.parametrize("inside", ["\n", '"', "\\"])
def test_a_long_text_that_is_not_json_is_refused(inside):
    with pytest.raises(ValueError, match="char"):
        decode('"' + "x" * 2**15 + inside + '"')


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.array(np.inf)])
def test_a_scalar_result_that_is_not_finite_is_told_as_it_is(value):
    told = encode_result(value)
    assert told in ("NaN", "Infinity", "-Infinity")
    assert not is_finite(told.encode())


def test_inside_a_result_they_stay():
    assert decode(encode_result([math.inf]))[0] == math.inf


def test_a_result_that_cannot_be_serialised_is_shown():
    class Odd:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(ResultError, match=r"result\.a is an Odd.*its repr raises RuntimeError"):
        encode_result({"a": Odd()})


def test_a_result_that_cannot_be_serialised_is_kept_as_json_of_text():
    curve = list(range(20_000))
    result = {"best": Path("/models/best.pt"), "curve": curve, "points": [Point(1)], "score": 0.9}
    with pytest.raises(ResultError, match=r'result\.best is a PosixPath; .*values="text"') as error:
        encode_result(result)
    text = str(error.value).partition("The result was ")[2]
    assert text.startswith('{"best":"/models/best.pt","curve":[0,1,')
    assert text.endswith(',19999],"points":["Point(x=1)"],"score":0.9}')
    assert len(text) < 13_000
    with pytest.raises(ResultError) as error:
        encode_result({"best": Path("/m"), "score": 0.9})
    assert json.loads(str(error.value).partition("The result was ")[2]) == {"best": "/m", "score": 0.9}


@pytest.mark.parametrize("result", [{"n": 10**5000, "score": 0.9}, ["x" * 70_000_000, {"score": 0.9}]])
def test_the_text_of_a_result_that_is_too_large_is_kept(result):
    with pytest.raises(ResultError) as error:
        encode_result(result)
    assert '"score":0.9' in str(error.value)[-30:]
    assert len(str(error.value)) < 15_000


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Path("/a/b"), "/a/b"), (decimal.Decimal("1.50"), "1.50"), (Point(1), "Point(x=1)"), (b"x", "b'x'"),
        ({1}, "{1}"), (np.float64, "<class 'numpy.float64'>"), (1 + 2j, "(1+2j)"), (Colour.RED, "red"),
        (MetaTensor(), "tensor(..., device='meta')"), (np.datetime64(1, "s"), "1970-01-01T00:00:01"),
        (np.zeros(2, "M8[D]"), ["1970-01-01", "1970-01-01"]), (np.longdouble("0.1"), 0.1),
        ({1: 2, (3, 4): 5, None: 6}, {"1": 2, "(3, 4)": 5, "None": 6}), ({1: 2, "1": 3}, "{1: 2, '1': 3}"),
        ([10**4299], [10**4299]), ([10**5000], [hex(10**5000)]), (True, True), (None, None),
        ("\ud800", "\ud800"), (Untouchable, str(Untouchable)),
    ],
)  # fmt: skip
def test_with_values_text_what_json_cannot_hold_is_text(value, kept):
    for result, expected in ((value, kept), ({"a": [value, 1]}, {"a": [kept, 1]})):
        got = decode(encode_result(result, as_text=True))
        assert got == expected
        assert type(got) is type(expected)


def test_with_values_text_no_result_is_lost():
    class Odd:
        def __str__(self):
            raise RuntimeError("no")

    deep = own = []
    for _ in range(300):
        deep.append(deep := [])
    me = {}
    me["me"] = me
    result = decode(encode_result({"odd": Odd(), "deep": own, "me": me, "score": 1}, as_text=True))
    assert result["odd"] == "an Odd (its repr raises RuntimeError)"
    assert result["score"] == 1


def test_with_values_text_a_generator_is_no_result():
    with pytest.raises(ResultError, match="result is a generator"):
        encode_result((x for x in (1,)), as_text=True)


def test_equal_configs_have_one_canonical_text():
    assert canonical({"b": 1, "a": {"d": 1, "c": 2}}) == canonical({"a": {"c": 2, "d": 1}, "b": 1})
    assert canonical({"a": 1}) != canonical({"a": "1"})


def test_options_are_named():
    with pytest.raises(UsageError, match=r"run_function_kwargs\.f is a function"):
        encode_options("run_function_kwargs", {"f": lambda: None})
