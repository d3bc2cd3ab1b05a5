"""Functions of scripts: imported where the script has a main guard, by value where not."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from dataclasses import replace

import pytest

from queue_eval.model.codec import decode, encode
from tests.support.driver_code import GUARDED, Layout, drive
from tests.support.fault_fleet import wait_registered
from tests.support.group import signature_of
from tests.support.marks import long
from tests.support.namespaces import OTHER_PIDS, queue_eval, start_inside

METHODS = ("thread", "process", "subprocess")

BODY = """
    import enum, functools, inspect, multiprocessing, pickle, random, sys, typing
    import numpy as np
    from reporting import report

    with open("started", "a") as file:
        file.write(__name__ + " ")

    RNG = np.random.default_rng()

    class Model:
        peer: "Model | None" = None
        class Inner:
            pass

    class Color(enum.Enum):
        RED = 1

    @functools.lru_cache(maxsize=10)
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    def inner():
        raise ValueError("as it should be")

    def square(x):
        return x * x

    def run(config):
        what = config.get("what", config["x"])
        if what == 0:
            ours = (Model(), Model, Color.RED, square)
            return [pickle.loads(pickle.dumps(one)) is not None for one in ours]
        if what == 1:
            return [fibonacci(30), fibonacci.cache_parameters()["maxsize"]]
        if what == 2:
            source = inspect.getsource(run).splitlines()[0].strip()
            return [source, str(typing.get_type_hints(Model)["peer"]), pickle.dumps(Model).count(b"__main__")]
        if what == 3:
            inner()
        return float(RNG.random())
"""

EXPECTED = [[True] * 4, [832040, 10], ["def run(config):", "__main__.Model | None", 1]]


def layout(call: str, body: str = BODY) -> Layout:
    lines = textwrap.dedent(body) + textwrap.dedent(call)
    return Layout({"app/search.py": lines}, ["../app/search.py"])


IMPORTED = layout(f"""
    {GUARDED}
        report(run, None)
""")
BY_VALUE = layout("report(run, None)\n")
OUTSIDE_GUARD = layout(f"""
    {GUARDED}
        print(end="")
    report(run, None)
""")


@pytest.fixture
def worker(fleet):
    fleet.worker(slots=2)


def starts(fleet):
    """As what the script was started, and how often."""
    return [(fleet.folder / place / "started").read_text().split() for place in ("cwd", ".")
            if (fleet.folder / place / "started").exists()]  # fmt: skip


def check_results(said):
    assert said["results"][:3] == EXPECTED
    error = said["errors"][3]
    assert error.endswith("ValueError: as it should be\n")
    for words in ('app/search.py", line', "in run", "in inner", 'raise ValueError("as it should be")'):
        assert words in error


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
@pytest.mark.usefixtures("worker")
def test_a_script_with_a_guard_is_imported(fleet, campaign, method):
    said = drive(fleet, IMPORTED, campaign, method)
    check_results(said)
    assert said["warnings"] == []
    mine, theirs = starts(fleet)
    assert (mine, set(theirs)) == (["__main__"], {"__mp_main__"})


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
@pytest.mark.parametrize("kind", [BY_VALUE, OUTSIDE_GUARD], ids=["no guard", "outside the guard"])
@pytest.mark.usefixtures("worker")
def test_a_script_without_a_guard_goes_by_value(fleet, campaign, method, kind):
    said = drive(fleet, kind, campaign, method)
    check_results(said)
    (warning,) = said["warnings"]
    assert warning.startswith("__main__:run travels by value with RNG, a random generator in its present")
    assert starts(fleet) == [["__main__"]]


@pytest.mark.usefixtures("worker")
def test_each_job_of_a_script_draws_numbers_of_its_own(fleet, campaign):
    draws = BODY.replace('config.get("what", config["x"])', "9")
    said = drive(fleet, layout(f"\n{GUARDED}\n    report(run, None)\n", draws), campaign, "subprocess")
    assert len(set(said["results"])) == 4


@pytest.mark.parametrize(
    "generator",
    ["random.Random(3)", "np.random.RandomState(3)", "np.random.default_rng()", "random.Random(3).random"],
)
@pytest.mark.usefixtures("worker")
def test_generators_by_value_are_named(fleet, campaign, generator):
    body = f"""
        import random
        import numpy as np
        from reporting import report
        DRAWS = {generator}
        IDLE = random.Random()
        def helper():
            return DRAWS
        def run(config):
            return str(helper())[:0]
        report(run, None)
    """
    said = drive(fleet, layout("", body), campaign)
    (warning,) = said["warnings"]
    assert "DRAWS" in warning
    assert "IDLE" not in warning
    assert said["results"] == [""] * 4


POOL = f"""
    import multiprocessing
    from reporting import report

    class Box:
        def __init__(self, x):
            self.x = x

    def double(box):
        return Box(box.x * 2)

    def run(config):
        with multiprocessing.get_context("WAY").Pool(1) as pool:
            return [box.x for box in pool.map(double, [Box(config["x"])])]

    {GUARDED}
        report(run, None)
"""


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.usefixtures("worker")
def test_a_pool_of_a_job_knows_the_classes_of_the_script(fleet, campaign, guard):
    text = POOL.replace("WAY", "spawn" if guard else "fork")
    said = drive(fleet, layout("", text if guard else text.replace(GUARDED, "if True:")), campaign)
    assert said["errors"] == [None] * 4
    assert said["results"] == [[0], [2], [4], [6]]


TIMES = "    def __mul__(self, x): return "


@pytest.mark.parametrize(
    ("before", "within"),
    [
        ("", "SCALE = 3"),
        ("SCALE = 1", "SCALE = 3"),
        ("SCALE = 1\ndef choose():\n    global SCALE; SCALE = 3", "choose()"),
        (f"class Scale:\n    of = 1\n{TIMES}self.of * x\nSCALE = Scale()", "Scale.of = 3"),
        (f"class Scale(list):\n{TIMES}self[0] * x\nSCALE = Scale()", "SCALE.append(3)"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_what_the_guard_has_set_is_there(fleet, campaign, before, within):
    text = f"""from reporting import report
{before}
def scaled(x):
    return SCALE * x
def run(config):
    return scaled(config["x"])
{GUARDED}
    {within}
    report(run, None)
"""
    said = drive(fleet, layout("", text), campaign)
    assert said["results"] == [0, 3, 6, 9]


@pytest.mark.usefixtures("worker")
def test_arguments_of_the_script_are_there(fleet, campaign):
    text = f"""
        import argparse
        from reporting import report
        parser = argparse.ArgumentParser()
        parser.add_argument("--scale", type=int, required=True)
        ARGUMENTS = parser.parse_args()
        LOCK = __import__("threading").Lock()
        def run(config):
            with LOCK:
                return ARGUMENTS.scale * config["x"]
        {GUARDED}
            report(run, None)
    """
    kind = layout("", text)
    said = drive(fleet, Layout(kind.files, [*kind.command, "--scale", "3"]), campaign)
    assert said["results"] == [0, 3, 6, 9]


@pytest.mark.usefixtures("worker")
def test_a_script_that_cannot_be_imported_elsewhere_goes_by_value(fleet, campaign):
    """It reads a file of the driver's working directory, which is not the worker's."""
    text = f"""
        import sys
        from reporting import report
        DATA = open("data.txt").read()
        def run(config):
            return [DATA, __name__, sys.argv]
        {GUARDED}
            report(run, None)
    """
    files = layout("", text).files | {"cwd/data.txt": "4"}
    said = drive(fleet, Layout(files, ["../app/search.py"]), campaign)
    assert said["errors"] == [None] * 4
    assert said["results"] == [["4", "__main__", [""]]] * 4


def test_a_script_that_has_changed_since_goes_by_value(fleet, campaign):
    """What runs is what the driver has, which began before."""
    text = f"""
        from pathlib import Path
        from reporting import report
        import queue_eval
        VERSION = 1
        def run(config):
            return VERSION
        {GUARDED}
            submit = queue_eval.Evaluator.submit
            def change_and_submit(self, configs):
                file = Path(__file__)
                file.write_text(file.read_text().replace("VERSION = 1", "VERSION = 2"))
                return submit(self, configs)
            queue_eval.Evaluator.submit = change_and_submit
            report(run, None)
    """
    fleet.worker(slots=2)
    assert drive(fleet, layout("", text), campaign)["results"] == [1] * 4


def test_a_script_and_its_module_are_one_function(fleet, campaign, tmp_path):
    text = f"""
        def run(config):
            return config["x"]
        {GUARDED}
            from reporting import report
            report(run, None)
    """
    fleet.worker(slots=2)
    said = drive(fleet, layout("", text), campaign)
    for call in ("from search import run; report(run, None)", "report('search:run', None)"):
        kind = Layout({}, ["-c", f"from reporting import report; {call}"], folder="app")
        assert drive(fleet, kind, campaign) == said
    (tmp_path / "configs.json").write_text('[{"x": 2}, {"x": 50}]')
    done = fleet.cli(
        "run", "app/search.py:run", "--campaign", campaign, "--method", "process", "--configs",
        "configs.json", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["counts"]["succeeded"] == 2
    assert fleet.queue(campaign).snapshot().last_id == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "search.py").write_text("def run(config):\n    return 3\n")
    done = fleet.cli(
        "run", "other/search.py:run", "--campaign", campaign, "--method", "process", "--configs",
        "configs.json",
    )  # fmt: skip
    assert "the source of search:run has changed" in done.stderr


def worker_elsewhere(fleet, *names):
    """On another machine: it has other process ids, and nothing in these folders of the driver."""
    flags = ("--mount", *OTHER_PIDS)
    mounts = "".join(f"mount -t tmpfs none {fleet.folder / name} && " for name in names)
    command = shlex.join(queue_eval("worker", "-n", "2", "--home", fleet.home, "--name", "elsewhere"))
    log = fleet.folder / "elsewhere.log"
    process = start_inside(flags, "sh", "-c", f"cd / && {mounts}exec {command} > {log} 2>&1")
    fleet.started.append(process)
    for stream in (process.stdin, process.stderr):
        stream.close()
    wait_registered(fleet, "elsewhere")


@pytest.mark.parametrize("kind", ["script", "script with a helper", "name"])
def test_another_machine_without_the_folder(fleet, campaign, kind):
    for name in ("app", "lib", "tools"):
        (fleet.folder / name).mkdir()
    text = f"""
        import reporting
        {"import helper" if "helper" in kind else ""}
        def run(config):
            return {"helper.VALUE" if "helper" in kind else "[__name__, config['x']]"}
        {GUARDED}
            reporting.report({"'helper:run'" if kind == "name" else "run"}, None)
    """
    files = {"app/search.py": text, "app/helper.py": "VALUE = 1\ndef run(config): return 1\n"}
    worker_elsewhere(fleet, "app", "lib", "tools")
    said = drive(fleet, Layout(files, ["../app/search.py"]), campaign)
    if kind == "script":
        assert said["results"] == [["__main__", x] for x in range(4)]
        return
    (error,) = set(said["errors"])
    line = error.splitlines()[-1]
    assert "FunctionError: the run function" in line
    assert "cannot be loaded on this worker: ModuleNotFoundError: No module named 'helper'" in line
    place = "search.py" if "helper" in kind else "helper.py"
    assert re.search(f"the driver has it from {fleet.folder}/.*/{place}; looked in", line)


# Other Pythons, other builds, other rights ------------------------------------------------------------------


def change_code(fleet, campaign, **changes):
    """What a driver elsewhere would have told."""
    queue = fleet.queue(campaign)
    meta = queue.meta()
    options = decode(meta["options"])
    for name, value in changes.items():
        if value is None:
            options["code"].pop(name)
        else:
            options["code"][name] = value
    meta["options"] = encode(options).encode()
    signature = signature_of(meta, campaign, queue.link.access.key, int(meta["revision"]))
    changed = {"options": meta["options"], "signature": signature}
    queue.link.call(lambda client: client.hset(queue.keys.meta, mapping=changed))


@pytest.mark.filterwarnings("ignore:worker .* has stepped aside:UserWarning")  # beside one that ends
@pytest.mark.long  # 30 s, for which another worker is waited for
def test_another_python_refuses_code_by_value(fleet, campaign):
    with fleet.driver(campaign, lambda config: config["x"]) as driver:
        change_code(fleet, campaign, python="cpython 3.99")
        fleet.worker()
        driver.submit([{"x": 1}])
        (job,) = driver.gather("ALL", timeout=90)
    assert job.state == "failed"
    assert "travels by value from Python cpython 3.99, and this worker runs cpython 3." in job.error
    assert "start the worker with Python cpython 3.99, or move the function to a module" in job.error
    assert "Traceback" not in job.error


def test_a_driver_of_the_build_before(fleet, campaign, tmp_path):
    """It tells folders, and nothing else of its code."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "of_before.py").write_text("def run(config):\n    return config['x']\n")
    with fleet.driver(campaign, "of_before:run") as driver:
        key = fleet.queue(campaign).keys.meta
        link = fleet._links[-1]
        options = decode(link.call(lambda client: client.hget(key, "options")))
        del options["code"]
        options["path"] = [str(tmp_path / "folder")]
        link.call(lambda client: client.hset(key, "options", encode(options)))
        fleet.worker()
        driver.submit([{"x": 7}])
        assert [job.result for job in driver.gather("ALL", timeout=30)] == [7]


def test_a_worker_of_the_build_before_is_told_all_that_it_reads(fleet, campaign):
    """Folders in order, and a script's function by value with its signature."""
    fleet.worker(slots=2)
    drive(fleet, IMPORTED, campaign)
    meta = fleet.queue(campaign).meta()
    assert meta["payload"]
    assert meta["signature"]
    path = decode(meta["options"])["path"]
    assert path[0].endswith("/app")
    assert path[1].endswith("/tools")


@pytest.mark.parametrize(("word", "is_run"), [("by-value", True), ("search", False)])
def test_a_worker_with_a_list_takes_a_script_for_code_by_value(fleet, campaign, word, is_run):
    fleet.worker("--name", f"strict-{word}", "--allow", word, slots=2)
    wait_registered(fleet, f"strict-{word}")
    body = f"""
        from reporting import report
        def run(config):
            return __name__
        {GUARDED}
            report(run, None)
    """
    if is_run:
        assert drive(fleet, layout("", body), campaign)["results"] == ["__main__"] * 4
        return
    words = "travels by value, which this worker does not allow"
    kind = layout("", body.replace("report(run", "import reporting; report(run"))
    said = drive(fleet, replace(kind, environment={"T_TOLD": words}), campaign)
    assert said["results"] == []
    assert any(words in one for one in said["warnings"]), said
