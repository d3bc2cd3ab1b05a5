from __future__ import annotations

import pytest

from queue_eval.errors import FunctionError, UsageError
from queue_eval.function.allow_list import AllowList
from queue_eval.function.loading import load
from queue_eval.model.states import Method

ALLOWED = AllowList.parse(["pack.mod", "json.*,os.path"])


def test_nothing_said_allows_all():
    assert AllowList.parse([]) is None


def test_a_package_allows_what_is_in_it_and_nothing_beside_it():
    assert ALLOWED is not None
    for name in ("pack.mod:run", "pack.mod.deep:run", "json:dumps", "json.decoder:JSONDecoder.decode"):
        ALLOWED.check(name, Method.PROCESS, is_by_value=False)
    for name in ("pack:run", "pack.module:run", "jsonx:run", "os:system", "__main__:run"):
        with pytest.raises(FunctionError, match=r"is not allowed on this worker; start .* --allow"):
            ALLOWED.check(name, Method.PROCESS, is_by_value=False)
    for name in ("pack.mod", "pack.mod:", "json:a b", ":x"):
        with pytest.raises(FunctionError, match="does not name a function"):
            ALLOWED.check(name, Method.PROCESS, is_by_value=False)


def test_code_by_value_and_forwarding_are_apart():
    both = AllowList.parse(["json", "by-value"])
    assert ALLOWED is not None
    assert both is not None
    both.check("json:dumps", Method.THREAD, is_by_value=True)
    with pytest.raises(FunctionError, match="--allow by-value"):
        ALLOWED.check("json:dumps", Method.THREAD, is_by_value=True)
    for method in (Method.RAY, Method.RQ):
        with pytest.raises(FunctionError, match="forwards to processes"):
            both.check("json:dumps", method, is_by_value=False)


@pytest.mark.parametrize("word", ["", "os:system", "a-b", "a..b", ".a", "*"])
def test_what_is_no_module(word):
    with pytest.raises(UsageError, match="is not a module"):
        AllowList.parse([word])


def test_the_module_of_the_definition_counts():
    assert load("json:dumps", None, (), ("json",)) is not None
    with pytest.raises(FunctionError, match=r"json:codecs.lookup is defined in module _codecs"):
        load("json:codecs.lookup", None, (), ("json",))
    # Partials are known by what they wrap; objects by their class.
    with pytest.raises(FunctionError, match="defined in module os"):
        load("tests.unit.function.test_allow_list:HIDDEN", None, (), ("tests",))


HIDDEN = __import__("functools").partial(__import__("os").makedirs, "/nowhere")
