"""What a package built from this folder holds: our modules, the licence, one version, and no secret."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import queue_eval

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "queue_eval", "workers")
SECRETS = (
    ".queue_eval/server.json", ".queue_eval/data/appendonly.aof", ".queue_eval/logs/w.log", "access.json",
    "worker-access.json", "local-access-1.json", "server.json", "server.conf", "signing.key", "launch.key",
    "tls/ca-key.pem", ".env",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what packages are built from."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree / name)
    return tree


def build(tree: Path, target: Path, *options: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target), *options]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


def test_no_secret_is_packed(tree, tmp_path):
    for folder in (".", "queue_eval", "queue_eval/campaign/scripts", "workers"):
        for secret in SECRETS:
            planted = tree / folder / secret
            planted.parent.mkdir(parents=True, exist_ok=True)
            planted.write_text("a secret")
    build(tree, tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (source,) = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as files, tarfile.open(source) as sources:
        all_packed = (files.namelist(), sources.getnames())
    for packed in all_packed:
        found = [name for name in packed if any(name.endswith(f"/{secret}") for secret in SECRETS)]
        assert found == []
        for kept in (
            "queue_eval/campaign/scripts/attach.lua", "queue_eval/campaign/scripts/include/wake.lua",
            "queue_eval/rq_bridge/scripts/begin.lua", "queue_eval/server/acl.py", "workers/worker.py",
        ):  # fmt: skip
            assert any(name.endswith(kept) for name in packed), kept


def said_by(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_one_version_and_the_licence(tree, tmp_path):
    """The package, the command line and the changelog tell the version that the module tells."""
    version = queue_eval.__version__
    build(tree, tmp_path / "dist", "-t", "wheel")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        information = f"queue_eval-{version}.dist-info"
        metadata = Parser().parsestr(files.read(f"{information}/METADATA").decode())
        licence = files.read(f"{information}/licenses/LICENSE").decode()
    assert (metadata["Version"], metadata["License-Expression"]) == (version, "MIT")
    assert licence == (ROOT / "LICENSE").read_text()
    assert said_by([sys.executable, "-m", "queue_eval", "--version"]).split()[-1] == version
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest, *released = re.findall(r"^## \[(.+)\](.*)$", changelog, re.MULTILINE)
    if ".dev" in version:
        assert newest == ("Unreleased", "")
        assert f"\nVersion in work: {version}.\n" in changelog.partition(f"[{released[0][0]}]")[0]
    else:
        assert newest[0] == version
    undated = {name for name, date in [newest, *released] if not re.fullmatch(r" - \d{4}-\d\d-\d\d", date)}
    assert undated <= {"Unreleased"}


def test_the_version_costs_no_import():
    """Reading it loads nothing that tells of installed packages."""
    code = "import sys, queue_eval; print(queue_eval.__version__, 'importlib.metadata' in sys.modules)"
    assert said_by([sys.executable, "-S", "-c", code]).split() == [queue_eval.__version__, "False"]
