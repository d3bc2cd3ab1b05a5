"""A worker hears a stop signal at once: what dies of it must not be charged before."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, threading, time
from workers.signals import DOUBT_S, Signals

signals = Signals()
signals.install()
ready, done = threading.Event(), threading.Event()
threading.Thread(target=lambda: (ready.set(), done.wait())).start()
ready.wait()
# As if it came just before the main thread began to wait: another thread is given it.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
sent_at = time.monotonic()
os.kill(os.getpid(), signal.SIGTERM)
signals.wait(60)
done.set()
assert signals.wants_drain
assert signals.received[signal.SIGTERM] - sent_at < 30
signals.wake()
signals.wait(60)
print("heard", time.monotonic() - sent_at < 60)
"""


def test_a_signal_to_another_thread_ends_the_wait() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == "heard True\n", done.stderr
