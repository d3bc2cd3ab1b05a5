"""A server for a group: drivers sign all that decides what runs, and workers hold what verifies it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
import redis

from queue_eval import Evaluator
from queue_eval.access import ACCESS_FILE, WORKER_ACCESS_FILE, find_access
from queue_eval.errors import FunctionError, UsageError
from queue_eval.keys import CAMPAIGNS, Keys
from queue_eval.server import start_server, stop_server
from queue_eval.server_home import ServerHome
from queue_eval.signing import Opening, sign
from tests.support.cli import cli, complaint, start_cli
from tests.support.waiting import wait_until

HARMLESS = "tests.support.functions:double"


@dataclass
class Group:
    """A server with users, one worker that has only its access file, and a folder for markers."""

    home: Path
    folder: Path
    given: Path
    process: subprocess.Popen[str]
    log: Path

    def driver(self, campaign: str, function: Any, **more: Any) -> Evaluator:
        keywords = {"campaign": campaign, "home": self.folder / "driver", "access": self.home / ACCESS_FILE,
                    "local_workers": False}  # fmt: skip
        evaluator: Evaluator = Evaluator.create(function, "process", keywords | more)
        return evaluator

    def as_worker(self) -> redis.Redis:
        return redis.Redis.from_url(find_access(file=self.given).url, protocol=2)

    def wait_refused(self, campaign: str, words: str) -> None:
        wait_until(lambda: any(
            f"campaign {campaign} is not served" in line and words in line for line in self.log.read_text().splitlines()
        ))  # fmt: skip
