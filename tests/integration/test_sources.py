"""Of what code results are: drivers are warned, `status` tells, `retry --source-changed` runs them again."""

from __future__ import annotations

import json
import sys
import warnings

import pytest

from queue_eval.model.states import State
from tests.support.cli import complaint
from tests.support.fault_fleet import end, wait_state
from tests.support.marks import long


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function and its helper, in the folder of the driver."""
    folder = tmp_path / "project"
    folder.mkdir()
    function = "import its_helper\ndef run(config):\n    return its_helper.VALUE\n"
    (folder / "of_sources.py").write_text(function)
    (folder / "its_helper.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def start_elsewhere(fleet, project, helper="VALUE = 7\n"):
    """Start a worker in another checkout with this helper; a list of modules keeps it to that."""
    elsewhere = fleet.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "of_sources.py").write_text((project / "of_sources.py").read_text())
    (elsewhere / "its_helper.py").write_text(helper)
    folder, fleet.folder = fleet.folder, elsewhere
    fleet.worker("--allow", "of_sources")
    fleet.folder = folder
    return elsewhere


def results(driver, count):
    driver.submit([{"x": x} for x in range(count)])
    jobs = sorted(driver.gather("ALL", timeout=30), key=lambda job: job.id)
    return [job.result for job in jobs], {job.source for job in jobs}


@pytest.mark.parametrize("method", ["process", *long("thread", "subprocess")])
def test_results_of_two_helpers(fleet, campaign, project, method):
    fleet.worker(slots=2)
    with fleet.driver(campaign, "of_sources:run", method) as driver:
        values, old = results(driver, 3)
    assert values == [1] * 3
    assert json.loads(fleet.cli("status", campaign, "--json").stdout)["sources"] == {}
    (project / "its_helper.py").write_text("VALUE = 2 # changed\n")
    with fleet.driver(campaign, "of_sources:run", method) as driver:
        helper = project / "its_helper.py"
        words = f"ran its_helper from {helper}, which has changed since"
        with pytest.warns(UserWarning, match=words) as told:
            values, sources = results(driver, 5)
    assert len(told) == 1
    assert "--source-changed" in str(told[0].message)
    assert values == [1] * 3 + [2] * 2
    (new,) = sources - old
    said = json.loads(fleet.cli("status", campaign, "--json").stdout)["sources"]
    assert said == {**dict.fromkeys(old, 3), new: 2}
    shown = fleet.cli("status", campaign).stdout
    assert f"results are of 2 sources: 3 of {next(iter(old))}, 2 of {new}" in shown
    assert f"queue-eval retry {campaign} --source-changed" in shown

    assert fleet.cli("retry", campaign, "--source-changed").stdout.startswith(f"3 jobs of {campaign} retried")
    wait_state(fleet.queue(campaign), State.SUCCEEDED, 5)
    assert fleet.cli("retry", campaign, "--source-changed").stdout.startswith(f"0 jobs of {campaign} retried")
    with fleet.driver(campaign, "of_sources:run", method) as driver:
        assert results(driver, 5) == ([2] * 5, {new})
        assert sorted(job.attempts for job in driver.jobs_done) == [1, 1, 2, 2, 2]
    assert json.loads(fleet.cli("status", campaign, "--json").stdout)["sources"] == {}
    assert fleet.queue(campaign).snapshot().conserved


def test_a_worker_that_has_another_file_says_so(fleet, campaign, project):
    elsewhere = start_elsewhere(fleet, project)
    with fleet.driver(campaign, "of_sources:run") as driver:
        words = f"ran its_helper from {elsewhere}/its_helper.py, and this driver has {project}/its_helper.py"
        with pytest.warns(UserWarning, match=words) as told:
            assert results(driver, 3)[0] == [7] * 3
    assert len(told) == 1


def test_equal_files_elsewhere_are_the_same_code(fleet, campaign, project):
    start_elsewhere(fleet, project, (project / "its_helper.py").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fleet.driver(campaign, "of_sources:run") as driver:
            assert results(driver, 3)[0] == [1] * 3


def test_where_nothing_tells_nothing_is_run_again(fleet, campaign, project):
    fleet.worker()
    with fleet.driver(campaign, "of_sources:run") as driver:
        results(driver, 2)
    for file in project.glob("*.py"):
        file.rename(fleet.folder / file.name)
    words = complaint(fleet.cli("retry", campaign, "--source-changed"), 2)
    assert "nothing here tells which results" in words
    assert "are not on this machine; give this command where they are" in words
    assert "leave out the ids" in complaint(fleet.cli("retry", campaign, "1", "--source-changed"), 2)


def test_helpers_by_value_count_too(fleet, campaign, monkeypatch):
    """In a notebook nothing is in a file."""
    fleet.worker()
    found = []
    for value in (1, 2, 1):
        space = {"__name__": "__main__"}
        exec(f"def helper(): return {value}\ndef run(config): return helper()", space)
        monkeypatch.setattr(sys.modules["__main__"], "run", space["run"], raising=False)
        with fleet.driver(campaign, space["run"], reuse=False) as driver:
            values, sources = results(driver, 1)
        assert values == [value]
        found.append(sources)
    assert found[0] == found[2] != found[1]


SCRIPT = """
import sys
{imports}
from queue_eval import Evaluator

def helper(): return 1
def run(config): return [helper(), __name__]

if __name__ == "__main__":
    home, campaign, count = sys.argv[1:]
    options = {{"home": home, "campaign": campaign, "local_workers": False}}
    with Evaluator.create(run, "process", options) as evaluator:
        evaluator.submit([{{"x": x}} for x in range(int(count))])
        evaluator.gather("ALL", timeout=30)
"""


@pytest.mark.parametrize("more", ["", *long("import its_helper")])
def test_a_script_and_its_value_are_the_same_code(fleet, campaign, project, more):
    """One worker imports the script, the other may not: the results of both count, and change with it."""
    script = project / "search.py"
    script.write_text(SCRIPT.format(imports=more))
    for count, options in (("2", ()), ("4", ("--allow", "by-value"))):
        worker = fleet.worker(*options)
        assert fleet.script(script, str(fleet.home), campaign, count).wait(60) == 0
        end(worker)
    jobs = json.loads(fleet.cli("jobs", campaign, "--json").stdout)
    assert [job["result"] for job in jobs] == [[1, "__mp_main__"]] * 2 + [[1, "__main__"]] * 2
    assert len({job["source"] for job in jobs}) == (2 if more else 1)
    shown = fleet.cli("status", campaign).stdout
    assert ("all are of the code as it is here now" in shown) == bool(more)
    assert "--source-changed" not in shown
    assert fleet.cli("retry", campaign, "--source-changed").stdout.startswith("0 jobs ")
    script.write_text(script.read_text().replace("return 1", "return 2"))
    assert fleet.cli("retry", campaign, "--source-changed").stdout.startswith("4 jobs ")


def test_a_file_elsewhere_is_not_what_the_driver_has(fleet, campaign, project):
    """Another checkout on this machine is as its worker has run it, and nevertheless other code."""
    start_elsewhere(fleet, project)
    with fleet.driver(campaign, "of_sources:run") as driver, pytest.warns(UserWarning, match="other code"):
        results(driver, 3)
    assert fleet.cli("retry", campaign, "--source-changed").stdout.startswith("3 jobs ")


def test_a_helper_that_changes_while_its_driver_runs(fleet, campaign, project, monkeypatch):
    """The driver goes on with what it has loaded, the next job has the new file."""
    for module in ("of_sources", "its_helper"):  # set first: what stood there before comes back
        monkeypatch.setitem(sys.modules, module, sys)
        del sys.modules[module]
    import of_sources  # type: ignore[import-not-found]

    fleet.worker()
    with fleet.driver(campaign, of_sources.run, "subprocess") as driver:
        results(driver, 1)
        (project / "its_helper.py").write_text("VALUE = 2 # changed\n")
        driver.submit([{"x": 1}])
        with pytest.warns(UserWarning, match="ran its_helper from .*, which has changed since"):
            assert [job.result for job in driver.gather("ALL", timeout=30)] == [2]
