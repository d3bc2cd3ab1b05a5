#!/usr/bin/env bash
# cloudpickle: a function of a script travels by value, with the helpers that it calls. A helper under functools.lru_cache
# or functools.cache does not: it is pickled by its name in `__main__`, without a word. dumps() succeeds; the pickle
# fails only where it is read, so in every task of a cluster.
#
# Seen with cloudpickle 3.1.2: in another process the function with a plain helper returns 7; with a memoised one loads()
# raises AttributeError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'cloudpickle==3.1.2'

cat > "$folder/script.py" <<'PYTHON'
import functools
import subprocess
import sys

import cloudpickle


def plain(x):
    return x + 1


@functools.lru_cache(maxsize=8)
def bounded(x):
    return x + 1


@functools.cache
def unbounded(x):
    return x + 1


READ = """
import pickle, sys
try:
    print(pickle.load(sys.stdin.buffer)(6))
except Exception as error:
    print(type(error).__name__)
"""
EXPECTED = {"plain": "7", "lru_cache": "AttributeError", "cache": "AttributeError"}

print("cloudpickle", cloudpickle.__version__, "CPython", sys.version.split()[0])
functions = {"plain": lambda x: plain(x), "lru_cache": lambda x: bounded(x), "cache": lambda x: unbounded(x)}
found = {}
for name, function in functions.items():
    data = cloudpickle.dumps(function)
    done = subprocess.run([sys.executable, "-c", READ], input=data, capture_output=True, check=True)
    found[name] = done.stdout.decode().strip()
    print(f"{name}: {len(data)} bytes, in another process: {found[name]}")
sys.exit(found != EXPECTED)
PYTHON

"$folder/venv/bin/python" "$folder/script.py" || { echo "this has changed"; exit 1; }
echo "as described"
