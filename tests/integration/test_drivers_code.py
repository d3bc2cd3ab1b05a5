"""What runs is what the driver has: its modules, its script, its archive, wherever else there are others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.driver_code import LAYOUTS, TELL, Layout, drive, script, write_strays
from tests.support.marks import long, soak

OFTEN = ("script", "module", "inserted path", "notebook", "file", "name")


@pytest.fixture
def worker(fleet):
    """A worker whose working directory holds modules that must be nobody's."""
    folder = fleet.folder
    fleet.folder = folder / "cwd"
    fleet.folder.mkdir()
    write_strays(fleet.folder)
    fleet.worker(slots=2)
    fleet.folder = folder


def check_same(said):
    assert said["warnings"] == []
    assert said["errors"] == [None] * 4
    assert said["results"] == [said["own"]] * 4
    assert len(said["sources"]) == 1


@pytest.mark.parametrize("name", [*OFTEN, *long(*(name for name in LAYOUTS if name not in OFTEN))])
@pytest.mark.usefixtures("worker")
def test_driver_and_worker_have_the_same_file(fleet, campaign, name):
    check_same(drive(fleet, LAYOUTS[name], campaign))


@pytest.mark.parametrize("method", ["process", *long("thread"), *soak("subprocess")])
@pytest.mark.parametrize("name", ["script", "module's own function", "inserted path", "file"])
@pytest.mark.usefixtures("worker")
def test_by_each_method(fleet, campaign, name, method):
    check_same(drive(fleet, LAYOUTS[name], campaign, method))


def test_an_editable_install(fleet, campaign):
    """The interpreter's own site-packages name the folder; a copy on the worker's path is nobody's."""
    environment = fleet.folder / "venv"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--symlinks", environment], check=True, timeout=60
    )
    (site,) = environment.glob("lib/python3*/site-packages")
    installed = [folder for folder in sys.path if folder.endswith("site-packages")]
    (site / "of_tests.pth").write_text("\n".join(installed))
    (site / "__editable__.project.pth").write_text(str(fleet.folder / "src"))
    layout = Layout(
        {"src/model.py": TELL, "app/search.py": script("import model", "model.run", "model.")},
        ["../app/search.py"],
    )
    python = str(environment / "bin" / "python")
    fleet.worker(slots=2, QUEUE_EVAL_PYTHON=python)
    check_same(drive(fleet, layout, campaign, python=python))
