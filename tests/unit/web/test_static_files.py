"""The files that a browser loads: small, complete, and with no address of anybody else."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import queue_eval
from queue_eval.web.page import one_script

STATIC = Path(queue_eval.__file__).parent / "web" / "static"
FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
OWN_SCRIPTS = sorted(STATIC.glob("*.js"))
MOST_BYTES = 150_000

NAMED = {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}
"""The name of a vocabulary, and where uPlot says that it comes from: nobody is asked there."""


def test_all_files_together_are_small():
    assert len(FILES) > 10
    assert sum(len(gzip.compress(path.read_bytes())) for path in FILES) <= MOST_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_has_an_address_of_another_server(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"""(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s"'`)]*""", text)
    assert set(found) - NAMED == set()


def test_the_first_page_asks_only_for_files_that_are_there_by_relative_addresses():
    asked = re.findall(r'(?:src|href)="([^"#]+)"', (STATIC / "index.html").read_text())
    assert len(asked) >= 4
    for address in asked:
        assert address == "data:," or (STATIC.parent / address).is_file(), address


def test_the_first_page_has_nothing_inline():
    """The policy of the server allows no inline script or style."""
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", text) == []


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_names_that_are_there_and_makes_no_markup(path):
    text = path.read_text()
    for names, wanted in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)"', text):
        for name in names.split(","):
            original = name.split(" as ")[0].strip()
            exported = rf"^export (?:async )?(?:function|const|class) {original}\b"
            assert re.search(exported, (STATIC / wanted).read_text(), re.MULTILINE), (original, wanted)
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        == []
    )


def checked_by_node(script: str, folder: Path) -> None:
    file = folder / "script.mjs"
    file.write_text(script, encoding="utf-8")
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run([node, "--check", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not there")
@pytest.mark.parametrize("name", [*(path.name for path in OWN_SCRIPTS), "the page's"])
def test_a_script_can_be_parsed(name, tmp_path):
    checked_by_node(
        one_script("page_main.js") if name == "the page's" else (STATIC / name).read_text(), tmp_path
    )
