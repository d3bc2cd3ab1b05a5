"""What a job may report, and the sentences for the rest."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from queue_eval.errors import ReportError
from queue_eval.runtime.pipe import MAX_POINT_BYTES
from queue_eval.runtime.report_values import MAX_NAMES, checked


class Level(enum.IntEnum):
    LOW = 3


class Hostile:
    dtype = np.dtype("f8")

    def item(self) -> float:
        raise RuntimeError("on another device")

    def __float__(self) -> float:
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (1, 1), (-0.5, -0.5), (2**63 - 1, 2**63 - 1), (2**63, float(2**63)), (-(2**70), -float(2**70)),
        (np.float32(0.5), 0.5), (np.float64(0.25), 0.25), (np.int8(-3), -3), (np.uint64(2**63), float(2**63)),
        (np.longdouble(1.5), 1.5), (np.array(2.5), 2.5), (np.array([7]), 7), (Level.LOW, 3),
        (Decimal("1.5"), 1.5), (Fraction(1, 4), 0.25), (math.inf, math.inf), (-math.inf, -math.inf),
    ],
)  # fmt: skip
def test_numbers_of_all_kinds(value: Any, taken: float) -> None:
    _, numbers, _ = checked(1, {"x": value})
    assert numbers == {"x": taken}
    assert type(numbers["x"]) is type(taken)


def test_nan_is_kept() -> None:
    _, numbers, json = checked(1, {"x": math.nan, "y": np.float32("nan")})
    assert math.isnan(numbers["x"])
    assert math.isnan(numbers["y"])
    assert json == '{"x":NaN,"y":NaN}'


WRONG = (
    "1", b"1", None, True, np.True_, [1], (1,), {1: 1}, 1j, np.array([1, 2]), np.array("a"), np.str_("1"),
    np.datetime64(1, "ns"), np.timedelta64(1, "ns"), object, Hostile(), 10**400, 10**5000, "x" * 10_000_000,
)  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_anything_else_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ReportError) as caught:
        checked(1, {"loss": value})
    sentence = str(caught.value)
    assert sentence.startswith("report: 'loss' is ")
    assert len(sentence) < 100
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("step", "taken"),
    [(0, 0), (-5, -5), (2**53, 2**53), (np.int64(3), 3), (3.0, 3), (np.float32(4), 4), (Level.LOW, 3)],
)
def test_steps(step: Any, taken: int) -> None:
    number = checked(step, {"x": 1})[0]
    assert (number, type(number)) == (taken, int)


@pytest.mark.parametrize(
    "step", [0.5, math.nan, math.inf, "1", None, True, [1], 2**53 + 1, -(10**500), 1e300]
)
def test_other_steps_are_refused(step: Any) -> None:
    with pytest.raises(ReportError, match=r"report: the step is .*; give a"):
        checked(step, {"x": 1})


def test_bounds() -> None:
    with pytest.raises(ReportError, match="there are no values"):
        checked(1, {})
    with pytest.raises(ReportError, match=f"101 values are more than {MAX_NAMES}"):
        checked(1, {f"x{i}": 1 for i in range(MAX_NAMES + 1)})
    with pytest.raises(ReportError, match=r"the values take 10,000,00\d bytes as JSON"):
        checked(1, {"x" * 10_000_000: 1})
    with pytest.raises(ReportError) as caught:
        checked(1, {"x" * 10_000_000: "text"})
    assert len(str(caught.value)) < 200
    _, _, json = checked(-(2**53), {"\N{SNOWMAN}\n\"": 1, "y" * 3900: -1.5e-300})
    assert json.isascii()
    assert "\n" not in json
    assert len(f"{2**53} {-(2**53)} {json}\n") <= MAX_POINT_BYTES
