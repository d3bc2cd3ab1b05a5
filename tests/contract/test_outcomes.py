"""What an attempt may end with, and what is told of it."""

from __future__ import annotations

import cloudpickle
import pytest

from queue_eval.model.states import Method
from queue_eval.runtime.pipe import ERROR_BYTES
from tests.support.executor_harness import FORWARDING, ROOT, result_of, text_of
from workers.executors import child_process


def test_a_result(make):
    executor = make("echo", kwargs={"data": [1]})
    one = executor.call(x=1.5, name="\N{SNOWMAN}")
    assert result_of(one) == {"config": {"x": 1.5, "name": "\N{SNOWMAN}", "id": 1}, "kwargs": {"data": [1]}}
    assert len(one.source) == 8
    assert 0 <= one.run_ms <= one.slot_ms


def test_static_arguments_are_fresh_for_every_attempt(make):
    executor = make("spend", slots=1, kwargs={"data": [1], "more": {"deep": [1, 2]}})
    assert [result_of(one) for one in executor.run({}, {}, {})] == [[2, 1]] * 3


def test_many_results_belong_to_their_jobs(make, method):
    count = {"subprocess": 20, "rq": 100}.get(method, 300)
    executor = make()
    ended = executor.run(*[{}] * count)
    assert [result_of(one) for one in ended] == list(range(1, count + 1))


def test_an_exception(make):
    executor = make()
    bad, good = executor.run({"do": "raise", "kind": "value", "text": "für \U0001f600 \ud800"}, {})
    text = text_of(bad)
    assert bad.outcome == "error"
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("ValueError: für \U0001f600 \\ud800\n")
    assert 'executor_functions.py", line' in text
    assert "queue_eval/" not in text
    assert result_of(good) == 2


def test_an_exception_with_its_cause(make):
    text = text_of(make().call(do="raise_from"))
    assert text.index("ValueError: the cause") < text.index("direct cause") < text.index("the effect")
    assert "queue_eval/" not in text


def test_a_very_long_error_is_cut_in_the_middle(make):
    text = text_of(make().call(do="raise", kind="value", text="a" * 100_000 + " the end"))
    assert text.startswith("Traceback")
    assert text.endswith("the end\n")
    assert "bytes left out" in text
    assert len(text) < ERROR_BYTES + 100


@pytest.mark.parametrize(
    ("kind", "name"),
    [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"), ("base", "CancelledByUser")],
)
def test_what_is_no_exception_fails_the_attempt_too(make, kind, name):
    executor = make(slots=1)
    bad, good = executor.run({"do": "raise", "kind": kind}, {})
    assert bad.outcome == "error"
    assert f"{name}: wrong" in text_of(bad)
    assert result_of(good) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("set", "result.layers[2] is a set"),
        ("key", "result has the key 1, an int instead of a str"),
        ("object", "result is an object"),
    ],
)
def test_a_result_that_json_cannot_hold(make, value, message):
    one = make().call(do="value", value=value)
    assert one.outcome == "error"
    assert text_of(one).startswith("ResultError: the result cannot be serialised: ")
    assert message in text_of(one)


def test_a_result_that_json_cannot_hold_becomes_text(make):
    kept = {"best": "/models/best", "score": 0.5}
    assert result_of(make(values="text").call(do="value", value="path")) == kept
    one = make().call(do="value", value="path")
    assert "result.best is a PosixPath" in text_of(one)
    assert text_of(one).endswith('The result was {"best":"/models/best","score":0.5}')


def test_an_async_run_function_is_awaited(make):
    executor = make("echo_later", kwargs={"data": [1]})
    for one, x in zip(executor.run({"x": 1}, {"x": 2}), (1, 2), strict=True):
        assert result_of(one) == {"config": {"x": x, "id": x}, "kwargs": {"data": [1]}, "lingers": True}
        assert one.output == b""
    wrong, left, given_up, good = executor.run(
        {"error": "value"}, {"error": "exit"}, {"error": "cancelled"}, {}
    )
    for one, name in ((wrong, "ValueError"), (left, "SystemExit"), (given_up, "CancelledError")):
        assert one.outcome == "error"
        assert f"{name}: went wrong" in text_of(one)
        assert text_of(one).count("  File ") == 2, "echo_later and _fail; no frames of asyncio's"
    assert good.outcome == "ok"


def test_an_async_generator_is_no_run_function(make):
    assert "result is an async_generator" in text_of(make("yield_later", values="text").call())


@pytest.mark.parametrize(
    ("value", "outcome", "text"), [("nan", "nan", "is NaN"), ("inf", "inf", "is minus infinity")]
)
def test_a_result_that_is_not_finite_is_a_failure(make, value, outcome, text):
    one = make().call(do="value", value=value)
    assert one.outcome == outcome
    assert text_of(one) == f"the result {text}; return a finite number, or a dict that holds this one"


def test_other_values_come_back_as_they_are(make):
    executor = make()
    nested, text, pair = executor.run(*({"do": "value", "value": v} for v in ("nested nan", "text", "tuple")))
    assert result_of(nested)[0] != result_of(nested)[0]
    assert result_of(text) == "\U0001f600 \N{GRINNING FACE} \ud800"
    assert result_of(pair) == [1, None]


def test_numpy(make):
    assert result_of(make().call(do="numpy")) == {"scalar": 0.5, "array": [0, 1, 2], "flag": True}


def test_five_megabytes_each_way(make):
    text = "ab\N{SNOWMAN}" * 1_250_000
    executor = make()
    ended = executor.run(*[{"do": "many_bytes", "text": text}] * 2, {})
    assert [result_of(one) for one in ended] == [text[::-1], text[::-1], 3]


def test_a_function_by_value(make):
    offset = 10

    def add(config):
        return config["x"] + offset

    executor = make("__main__:add", payload=cloudpickle.dumps(add))
    assert result_of(executor.call(x=1)) == 11


def test_a_by_value_function_that_cannot_be_loaded(make):
    one = make("__main__:add", payload=b"no pickle").call()
    assert one.outcome == "error"
    assert "FunctionError: the run function __main__:add cannot be loaded on this worker" in text_of(one)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("no_such_module_x:run", "ModuleNotFoundError: No module named 'no_such_module_x'"),
        ("tests.support.executor_functions:absent", "AttributeError: "),
        ("sys:version", "the run function sys:version is str, which cannot be called"),
    ],
)
def test_a_function_that_is_not_there(make, method, function, reason, tmp_path):
    executor = make(function, path=(ROOT, tmp_path))
    assert not executor.executor.take_load()
    for _ in range(3):
        one = executor.call()
        assert one.outcome == "error"
        assert reason in text_of(one)
        assert function in text_of(one)
        assert "queue_eval/function/" not in text_of(one)
        if "called" not in reason:
            assert str(tmp_path) in text_of(one)
        assert len(text_of(one)) < 4000
        if method in FORWARDING:  # where it may be loaded is not for the forwarding worker to say
            assert one.unloaded == ""
        else:
            assert reason in one.unloaded
            assert "Traceback" not in one.unloaded
            assert not executor.executor.take_load()


def test_a_load_is_told_once_for_each_process(make, method):
    executor = make(slots=1)
    assert executor.call().unloaded == ""
    assert executor.executor.take_load()
    assert executor.call().unloaded == ""
    assert executor.executor.take_load() == (method is Method.SUBPROCESS)


def test_a_function_that_can_be_loaded_after_all(make, method, tmp_path, monkeypatch):
    """A process that could not load it is believed for a moment, then another one tries."""
    if method in FORWARDING:
        pytest.skip("it is loaded by others")
    executor = make("later:run", path=(tmp_path,))
    executor.call()
    pids = executor.children()
    executor.call()
    assert method is Method.SUBPROCESS or executor.children() == pids
    (tmp_path / "later.py").write_text("def run(config): return 1\n")
    monkeypatch.setattr(child_process, "_RETRY_LOAD_AFTER_S", 0.0)
    assert result_of(executor.call()) == 1
    assert executor.executor.take_load()


def test_modules_that_speak_or_exit_at_import(make, tmp_path):
    (tmp_path / "speaks.py").write_text("print('hello from import')\ndef run(config): return 1\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit('not as a module')\n")
    assert result_of(make("speaks:run", path=(tmp_path,)).call()) == 1
    one = make("leaves:run", path=(tmp_path,)).call()
    assert one.outcome == "error"
    assert "SystemExit: not as a module" in text_of(one)


def test_modules_named_like_ours(make, tmp_path):
    """A project with a package `workers` and modules `job`, `states`, `codec`, `queue_eval_x`."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("NAME = 'user'\n")
    (tmp_path / "workers" / "executors.py").write_text("from workers import NAME\n")
    for name in ("job", "states", "codec", "pipe", "errors", "child", "signing"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (tmp_path / "project.py").write_text(
        "import job, states, codec, pipe, errors, child, signing\n"
        "import workers.executors\n"
        "def run(config):\n"
        "    modules = (job, states, codec, pipe, errors, child, signing, workers.executors)\n"
        "    return [module.NAME for module in modules]\n"
    )
    names = ["job", "states", "codec", "pipe", "errors", "child", "signing", "user"]
    assert result_of(make("project:run", path=(tmp_path,)).call()) == names
