"""What a package that is built from this folder holds: our modules, and no secret that lies among them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "CHANGELOG.md", "queue_eval", "workers")
SECRETS = (
    ".queue_eval/server.json", ".queue_eval/data/appendonly.aof", ".queue_eval/logs/w.log", "access.json",
    "worker-access.json", "local-access-1.json", "server.json", "server.conf", "signing.key", "launch.key",
    "tls/ca-key.pem", ".env",
)  # fmt: skip


def test_no_secret_is_packed(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree / name)
    for folder in (".", "queue_eval", "queue_eval/campaign/scripts", "workers"):
        for secret in SECRETS:
            planted = tree / folder / secret
            planted.parent.mkdir(parents=True, exist_ok=True)
            planted.write_text("a secret")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / "dist")]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
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
