"""What runs user code elsewhere is sent by value: it finds all it needs where there is no queue_eval."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SENDING = """
import cloudpickle, queue_eval, sys
from queue_eval.runtime.ray_host import RayHost
from queue_eval.runtime.pipe import Setup

cloudpickle.register_pickle_by_value(queue_eval)
setup = Setup(sys.argv[1], None, (), {}, threads=1)
sys.stdout.buffer.write(cloudpickle.dumps(RayHost(setup)))
"""

RECEIVING = """
import pickle, sys

sys.modules["queue_eval"] = None  # not to be imported
process = pickle.loads(sys.stdin.buffer.read())
out = sys.__stdout__.buffer
for attempt in (1, 2):
    report = process.run(1, attempt, 1, sys.argv[1].encode())
out.write(report)
"""


@pytest.mark.parametrize(
    ("function", "config", "outcome", "said"),
    [
        ("json:dumps", '{"x": [1, NaN]}', "ok", '{\\"x\\": [1, NaN], \\"id\\": 1}'),
        ("json:loads", '{"x": 1}', "error", "TypeError: the JSON object must be str"),
        ("builtins:memoryview", '{"x": 1}', "error", "TypeError"),
        ("builtins:set", '{"x": 1}', "error", "ResultError: the result cannot be serialised"),
        ("json:dumps", "[1]", "error", "ConfigError: the config of this job is damaged"),
        ("json:nothing", "{}", "error", "FunctionError"),
        ("no_such_module:f", "{}", "error", "FunctionError"),
    ],
)
def test_an_attempt_runs_where_there_is_no_queue_eval(tmp_path, function, config, outcome, said):
    sent = subprocess.run([sys.executable, "-c", SENDING, function], capture_output=True, check=True)
    done = subprocess.run(
        [sys.executable, "-c", RECEIVING, config], input=sent.stdout, capture_output=True, cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    line, _, body = done.stdout[4:].partition(b"\n")
    assert json.loads(line)[3] == outcome
    assert said in body.decode(), body
