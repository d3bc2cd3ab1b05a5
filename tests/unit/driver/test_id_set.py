from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from queue_eval.driver.id_set import IdSet


@given(st.lists(st.integers(1, 5000)), st.lists(st.integers(1, 5000)), st.integers(-5, 6000))
def test_it_is_a_set(ids, gone, asked):
    found = IdSet()
    for id_ in ids:
        found.add(id_)
    for id_ in (*gone, *ids[::2]):
        found.discard(id_)
    left = set(ids) - {*gone, *ids[::2]}
    assert len(found) == len(left)
    assert (asked in found) == (asked in left)
