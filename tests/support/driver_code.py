"""Drivers that find their code in one of the ways that users have; no test itself.

Each says where it has the code of its run function, and what its jobs have. The working directory, which is
that of the workers too, holds modules of the same names that must be nobody's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fault_fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]

# What a module tells of itself: its file, and a hash of it; the hash also where that is in an archive.
TELL = """
    def tell(file=__file__, loader=__loader__):
        import hashlib
        return [file, hashlib.sha256(loader.get_data(file)).hexdigest()]

    def run(config):
        return tell()
"""

REPORT = """
    def report(function, own):
        import json, os, time, warnings
        from queue_eval import Evaluator

        options = {"home": os.environ["T_HOME"], "campaign": os.environ["T_CAMPAIGN"], "local_workers": False}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Evaluator.create(function, os.environ["T_METHOD"], options) as evaluator:
                evaluator.submit([{"x": x} for x in range(4)])
                jobs, until, end = [], os.environ.get("T_TOLD"), time.monotonic() + 60
                while len(jobs) < 4 and time.monotonic() < end:
                    jobs += evaluator.gather("ALL", timeout=1)
                    if until and any(until in str(one.message) for one in told):
                        break
                jobs.sort(key=lambda job: job.id)
        print(json.dumps({
            "own": own, "results": [job.result for job in jobs], "errors": [job.error for job in jobs],
            "sources": sorted({job.source for job in jobs}), "warnings": [str(one.message) for one in told],
        }))
"""

GUARDED = 'if __name__ == "__main__":'

STRAYS = ("tqdm", "statistics", "traceback", "model", "helper", "bisect", "pack")


@dataclass
class Layout:
    """Files of a driver, and the command that starts it."""

    files: dict[str, str]
    command: list[str]
    folder: str = "cwd"
    """In which it is started, and which holds the strays."""
    path: tuple[str, ...] = ()
    """Of PYTHONPATH."""
    prepare: Callable[[Path], None] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """T_TOLD: words of a warning with which the driver ends, though jobs are left."""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))


def write_strays(folder: Path) -> None:
    write(folder, {f"{name}.py": "raise RuntimeError('a stray module was imported')" for name in STRAYS})


def drive(
    fleet: Fleet, layout: Layout, campaign: str, method: str = "process", python: str = sys.executable
) -> dict[str, Any]:
    """What a driver says. Its workers are to be there."""
    folder = fleet.folder
    write(folder, {"tools/reporting.py": textwrap.dedent(REPORT)} | layout.files)
    if layout.folder == "cwd":
        write_strays(folder / "cwd")
    if layout.prepare is not None:
        layout.prepare(folder)
    path = [str(folder / one) for one in (*layout.path, "tools")]
    environment = os.environ | layout.environment | {
        "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]), "T_HOME": str(fleet.home), "T_CAMPAIGN": campaign,
        "T_METHOD": method,
    }  # fmt: skip
    done = subprocess.run(
        [python, *layout.command], cwd=folder / layout.folder, env=environment, capture_output=True,
        text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "lib.zip", "w") as archive:
        archive.write(folder / "lib" / "model.py", "model.py")


SCRIPT = f"""
    import sys
    from reporting import report
    {{imports}}
    {textwrap.dedent(TELL).strip().replace(chr(10), chr(10) + "    ")}

    {GUARDED}
        report({{function}}, {{module}}tell())
"""


def script(imports: str = "", function: str = "run", module: str = "") -> str:
    return textwrap.dedent(SCRIPT).format(imports=imports, function=function, module=module)


MODEL = script("import model", "model.run", "model.")
INSERTED = script("sys.path.insert(0, '../lib'); import model", "model.run", "model.")
FROM_FILE = """\
import importlib.util
spec = importlib.util.spec_from_file_location('model', '../lib/model.py')
model = importlib.util.module_from_spec(spec); sys.modules['model'] = model; spec.loader.exec_module(model)"""
POPPED = "sys.path.insert(0, '../lib'); import model; sys.path.pop(0)"
CELLS = textwrap.dedent("""
    import sys; sys.path.insert(0, '../lib')
    import model
    from reporting import report
    def run(config): return model.run(config)
    report(run, model.tell())
""")

LAYOUTS = {
    "script": Layout({"app/search.py": script()}, ["../app/search.py"]),
    "module": Layout(
        {
            "proj/pack/__init__.py": "", "proj/pack/helper.py": TELL, "proj/pack/statistics.py": "1 / 0",
            "proj/pack/search.py": script(
                "from . import helper; import statistics, random", "helper.run", "helper."
            ),
        },
        ["-m", "pack.search"], folder="proj",
    ),
    "module's own function": Layout(
        {
            "proj/pack/__init__.py": "", "proj/pack/helper.py": "", "proj/pack/statistics.py": "1 / 0",
            "proj/pack/search.py": script("from . import helper; import statistics, random"),
        },
        ["-m", "pack.search"], folder="proj",
    ),
    "inserted path": Layout(
        {"app/model.py": TELL, "lib/model.py": TELL, "app/search.py": INSERTED}, ["../app/search.py"],
    ),
    "PYTHONPATH": Layout({"lib/model.py": TELL, "app/search.py": MODEL}, ["../app/search.py"], path=("lib",)),
    "notebook": Layout({"lib/model.py": TELL}, ["-c", CELLS], folder="lib"),
    "zip": Layout(
        {"lib/model.py": TELL, "app/search.py": INSERTED.replace("../lib", "../lib.zip")},
        ["../app/search.py"], prepare=zipped,
    ),
    "symlinked package": Layout(
        {"real_place/__init__.py": TELL, "app/search.py": script("import link", "link.run", "link.")},
        ["../app/search.py"], path=(".",),
        prepare=lambda folder: (folder / "link").symlink_to(folder / "real_place"),
    ),
    "file": Layout(
        {"app/model.py": TELL, "lib/model.py": TELL,
         "app/search.py": script(FROM_FILE, "model.run", "model.")},
        ["../app/search.py"],
    ),
    "path that was changed back": Layout(
        {"app/model.py": TELL, "lib/model.py": "import helper\n" + textwrap.dedent(TELL), "lib/helper.py": "",
         "app/search.py": script(POPPED, "model.run", "model.")}, ["../app/search.py"],
    ),
    "name": Layout({"app/model.py": TELL, "app/search.py": script("import model", "'model:run'", "model.")},
                   ["../app/search.py"]),
}  # fmt: skip
