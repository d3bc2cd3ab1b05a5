"""What can be said of the files in docker/ without a container engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"
EXACT = re.compile(r"\d+\.\d+\.\d+(-[a-z]+)*")


def new_secrets() -> dict[str, str]:
    command = [sys.executable, DOCKER / "secrets"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


def test_images_of_others_have_exact_tags():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE))
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    images = [image.replace("${PYTHON}", arguments["PYTHON"]) for image in images]
    named = re.findall(r"^ *image: (\S+)", (DOCKER / "compose.yaml").read_text(), re.MULTILINE)
    foreign = images + [image for image in named if not image.startswith("queue-eval")]
    assert len(foreign) == 3
    for image in foreign:
        assert EXACT.fullmatch(image.partition(":")[2]), image


def test_every_secret_that_compose_wants_is_made_anew():
    pytest.importorskip("cryptography")
    wanted = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()))
    first, second = new_secrets(), new_secrets()
    assert first.keys() == second.keys() == wanted
    assert all(first[name] != second[name] for name in wanted)
    for name, value in first.items():
        # What compose takes as it is: on one line, in single quotes.
        assert re.fullmatch(r"'[^'$\n]+'", value), name
