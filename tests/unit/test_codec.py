from __future__ import annotations

import json
import math

import numpy as np
import pytest

from queue_eval.codec import (
    MAX_CONFIG_BYTES,
    canonical,
    decode,
    encode,
    encode_config,
    encode_options,
    encode_result,
)
from queue_eval.errors import ConfigError, ResultError, UsageError
from queue_eval.non_finite import is_finite


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
        (np.arange(3), [0, 1, 2]), (np.array(1.5), 1.5), (np.zeros((2, 1)), [[0.0], [0.0]]), ((1, 2), [1, 2]),
    ],
)  # fmt: skip
def test_numpy_and_tuples_become_plain(value, plain):
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
        ({"id": 1}, '"id"'),
        ([1], "is a list"),
    ],
)
def test_what_json_cannot_hold_is_named(config, words):
    with pytest.raises(ConfigError) as error:
        encode_config(config, 7)
    assert "config 7" in str(error.value)
    assert words in str(error.value)


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


def test_equal_configs_have_one_canonical_text():
    assert canonical({"b": 1, "a": {"d": 1, "c": 2}}) == canonical({"a": {"c": 2, "d": 1}, "b": 1})
    assert canonical({"a": 1}) != canonical({"a": "1"})


def test_options_are_named():
    with pytest.raises(UsageError, match=r"run_function_kwargs\.f is a function"):
        encode_options("run_function_kwargs", {"f": lambda: None})
