from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from queue_eval.id_set import IdSet


@given(st.lists(st.integers(1, 5000)), st.integers(-5, 6000))
def test_it_is_a_set(ids, asked):
    found = IdSet()
    for id_ in ids:
        found.add(id_)
    assert len(found) == len(set(ids))
    assert (asked in found) == (asked in ids)
