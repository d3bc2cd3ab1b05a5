"""The process that forwards to Ray, started by `workers.executors.ray`: one Ray task for each attempt.

It is a Ray driver of its own: when it dies, Ray ends its tasks. Ray's retries are off, since we count
attempts. This package need not be installed on the nodes: the code that runs there is sent by value.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.util.client
from ray import cloudpickle
from ray.exceptions import LocalRayletDiedError, NodeDiedError, RayError, RayTaskError, TaskCancelledError

import queue_eval
from queue_eval.backoff import Backoff
from queue_eval.model.attempt import Attempt, Token
from queue_eval.runtime.elsewhere import to_elsewhere
from queue_eval.runtime.failure_texts import describe_death, describe_lateness
from queue_eval.runtime.forwarder import Outlet, run_guarded, serve
from queue_eval.runtime.pipe import Report, Setup, parse_frame, parse_report
from queue_eval.runtime.ray_host import RayHost
from workers.executors.ray_address import why_unreachable
from workers.executors.ray_channels import Channels

_BATCH_S = 0.03
"""Fast results are awaited together for about so long, so that each costs only part of a call."""

_MAX_BATCH = 128

_MAX_WAIT_S = 0.1
"""A call that awaits results takes at most so long: only the next one awaits newly forwarded attempts."""

_SIZE_POLL_S = 10.0
"""How often the cluster is asked for its size."""

_MAX_SILENCE_S = 120.0
"""A cluster that has not answered for so long is gone. Its own nodes give it up after 60 s."""

_RETRY_S = (1.0, 15.0)
_LOOK_AGAIN_S = 2.0

_OWN_ENDS = ("ok", "stopped", "given back")
"""Outcomes that no interrupt has brought about."""

_INIT_PATIENCE_S = 20.0
"""Report that Ray has not begun after so long: it may wait for a quarter of an hour."""


class RayBackend:
    """A `queue_eval.runtime.forwarder.Backend`.

    With a time limit, each attempt is a stream of two values: the first says that it has begun.
    """

    def __init__(self, setup: Setup, outlet: Outlet) -> None:
        assert setup.forward is not None
        self._forward = setup.forward
        self._setup = setup
        self._outlet = outlet
        self._limit_s: float | None = self._forward["time_limit_s"]
        self._remote: Any = None
        self._remotes: dict[int, Any] = {}
        """The Ray function for each number of slots that an attempt may take."""
        self._lock = threading.Condition()
        self._flight: dict[Any, Token] = {}
        self._refs: dict[Token, Any] = {}
        self._deadlines: dict[Token, float] = {}
        self._recalled: set[Token] = set()
        self._channels = Channels(outlet)
        self._slots = 0
        self._rate = 0.0
        """Results per second, of late."""
        self._heard_at = time.monotonic()
        """When the cluster last answered."""
        self._doubt = threading.Event()
        run_guarded(self._work)

    # From the worker --------------------------------------------------------------------------------------

    def submit(self, attempts: Sequence[Attempt]) -> None:
        refused: list[Report] = []
        with self._lock:
            for attempt in attempts:
                # Pass one argument only: Ray takes its time over each.
                argument = b"%d %d %d %b" % (*attempt.token, attempt.slots, attempt.config)
                try:
                    ref = self._remote_of(attempt.slots).remote(argument)
                except Exception as error:  # an attempt that Ray refuses must not keep the others waiting
                    body = f"Ray does not take this job: {_one_line(error)}".encode()
                    refused.append(Report(*attempt.token, "lost", 0.0, "", body, b""))
                    continue
                self._flight[ref] = attempt.token
                self._refs[attempt.token] = ref
            self._lock.notify()
        if refused:
            self._outlet.report(refused)

    def recall(self, tokens: Sequence[Token]) -> None:
        with self._lock:
            refs = [self._refs[token] for token in tokens if token in self._refs]
            self._recalled.update(token for token in tokens if token in self._refs)
        for ref in refs:
            ray.cancel(ref)

    def stop(self, tokens: Sequence[Token]) -> None:
        with self._lock:
            refs = [self._strike_off(token) for token in tokens if token in self._refs]
        for ref in refs:
            ray.cancel(ref, force=True)

    def notify(self, tokens: Sequence[Token], word: str) -> None:
        # Also of attempts that are yet to be submitted: they may begin at once.
        with self._lock:
            self._channels.notify(list(tokens), word)

    def close(self) -> None:
        with self._lock:
            tokens = list(self._refs)
        self.stop(tokens)
        ray.shutdown()

    # ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._connect()
        self._heard_at = time.monotonic()
        run_guarded(self._watch)
        while True:
            self._look()
            if time.monotonic() - self._heard_at > _MAX_SILENCE_S:
                raise TimeoutError(f"Ray has not answered for {_MAX_SILENCE_S:.0f} s")

    def _watch(self) -> None:
        """Watch the size of the cluster, and whether this driver still belongs to it. If the cluster is gone,
        Ray itself lets tasks wait for ever."""
        own = None if _is_ray_client() else ray.get_runtime_context().get_node_id()
        while True:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            if own is not None and own not in [node["NodeID"] for node in nodes]:
                raise ConnectionError("the Ray node of this forwarder is not of the cluster any more")
            self._heard_at = time.monotonic()
            self._report_slots()
            self._doubt.wait(_SIZE_POLL_S)
            self._doubt.clear()

    def _connect(self) -> None:
        backoff = Backoff(*_RETRY_S)
        arguments = _init_arguments(self._forward)
        while True:
            if why := why_unreachable(arguments):
                self._outlet.slots(0, why)
                time.sleep(_LOOK_AGAIN_S)
                continue
            if (why := self._init(arguments)) is None:
                break
            self._outlet.slots(0, why)
            time.sleep(backoff.next_s())
        cloudpickle.register_pickle_by_value(queue_eval)
        address = self._channels.listen(_own_address()) if self._setup.inside is not None else None
        setup = self._setup.replace(inside=to_elsewhere(self._setup.inside, mailbox=address))
        self._remote = ray.remote(_make_run(setup, streaming=self._limit_s is not None))

    def _init(self, arguments: dict[str, Any]) -> str | None:
        """Join or start Ray. Returns why that has failed; None when it has not."""
        why = f"Ray has been connecting or starting for {_INIT_PATIENCE_S:.0f} s, and still is"
        alarm = threading.Timer(_INIT_PATIENCE_S, self._outlet.slots, (0, why))
        alarm.daemon = True
        alarm.start()
        try:
            ray.init(**arguments)
        except Exception as error:  # also for arguments that Ray does not know: the worker logs it
            return _one_line(error)
        finally:
            alarm.cancel()
        return None

    def _remote_of(self, slots: int) -> Any:
        if slots not in self._remotes:
            gpus = self._forward["num_gpus_per_task"]
            self._remotes[slots] = self._remote.options(
                name=f"queue_eval {self._forward['campaign']}",
                num_cpus=slots * self._forward["num_cpus_per_task"],
                num_gpus=None if gpus is None else slots * gpus,
                max_retries=0,
                **({"num_returns": "streaming"} if self._limit_s is not None else {}),
            )
        return self._remotes[slots]

    def _report_slots(self) -> None:
        slots = self._forward["in_flight"] or _capacity(ray.cluster_resources(), self._forward)
        if slots != self._slots:
            self._slots = slots
            self._outlet.slots(slots)

    def _look(self) -> None:
        """Wait a little for attempts that end, and report them."""
        with self._lock:
            if not self._flight:
                self._lock.wait(_SIZE_POLL_S)
            refs = list(self._flight)
        if not refs:
            return
        began_at = time.monotonic()
        wanted = min(len(refs), max(1, int(self._rate * _BATCH_S)), _MAX_BATCH)
        wait_s = _MAX_WAIT_S if wanted == 1 else _BATCH_S
        ready, _ = ray.wait(refs, num_returns=wanted, timeout=wait_s, fetch_local=False)
        if ready:
            self._take(ready)
        now = time.monotonic()
        self._enforce_limit(now)
        self._rate += 0.2 * (len(ready) / max(now - began_at, 0.001) - self._rate)

    def _take(self, ready: list[Any]) -> None:
        if self._limit_s is not None:
            ready = self._advance(ready)
        try:
            frames: list[Any] = ray.get(ready)
        except RayError:
            frames = [_outcome(ref) for ref in ready]
        ends = [got for got in frames if isinstance(got, LocalRayletDiedError)]
        reports: list[Report] = []
        returned: list[Token] = []
        with self._lock:
            for ref, got in zip(ready, frames, strict=True):
                token = self._flight.get(ref)
                if token is None or any(got is end for end in ends):
                    continue  # it was stopped meanwhile, or it ends with this process
                was_recalled = token in self._recalled
                self._strike_off(token)
                report = self._report(token, got)
                if was_recalled and report.outcome not in _OWN_ENDS:
                    returned.append(token)  # if it had begun, this very recall has interrupted it
                else:
                    reports.append(report)
        if any(isinstance(got, NodeDiedError) for got in frames):
            # The whole cluster may be dying: nothing more must begin before that is known.
            self._slots = 0
            self._outlet.slots(0, "a node has died")
            self._doubt.set()
        if reports:
            self._outlet.report(reports)
        if returned:
            self._outlet.returned(returned)
        if ends:  # Ray would fail all later tasks of this driver, so end it
            raise ends[0]

    def _advance(self, streams: list[Any]) -> list[Any]:
        """Read streams that have a value: note begun attempts, and return the values that are reports."""
        begun: list[Token] = []
        values: list[Any] = []
        now = time.monotonic()
        with self._lock:
            for stream in streams:
                token = self._flight.get(stream)
                if token is None:
                    continue
                value = next(stream)
                if token not in self._deadlines and _has_begun(value):
                    assert self._limit_s is not None
                    self._deadlines[token] = now + self._limit_s
                    begun.append(token)
                else:
                    # From here on the attempt is known by the value that holds its report.
                    self._flight[value] = self._flight.pop(stream)
                    self._refs[token] = value
                    values.append(value)
        if begun:
            self._outlet.begun(begun)
        return values

    def _enforce_limit(self, now: float) -> None:
        with self._lock:
            late = [token for token, at in self._deadlines.items() if at <= now]
            refs = [self._strike_off(token) for token in late]
        if not late:
            return
        for ref in refs:
            ray.cancel(ref, force=True)
        assert self._limit_s is not None
        body, limit_ms = describe_lateness(self._limit_s), self._limit_s * 1000
        self._outlet.report(Report(*token, "timeout", limit_ms, "", body, b"") for token in late)

    def _report(self, token: Token, got: Any) -> Report:
        if isinstance(got, BaseException):
            return Report(*token, "lost", 0.0, "", _describe_loss(got).encode(), b"")
        return parse_report(*parse_frame(got))

    def _strike_off(self, token: Token) -> Any:
        ref = self._refs.pop(token)
        del self._flight[ref]
        self._deadlines.pop(token, None)
        self._recalled.discard(token)
        self._channels.forget(token)
        return ref


def _make_run(setup: Setup, *, streaming: bool) -> Any:
    """The function that Ray runs on its nodes, for one attempt."""
    process = RayHost(setup)

    def run(argument: bytes) -> bytes:
        job, attempt, slots, config = argument.split(b" ", 3)
        _provide_cloudpickle()
        return process.run(int(job), int(attempt), int(slots), config)

    def run_streaming(argument: bytes) -> Any:
        yield None
        yield run(argument)

    return run_streaming if streaming else run


def _provide_cloudpickle() -> None:
    """A run function that travels by value needs the module cloudpickle: offer the copy that Ray brings."""
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        from ray import cloudpickle as rays

        sys.modules["cloudpickle"] = rays
        sys.modules["cloudpickle.cloudpickle"] = rays.cloudpickle


def _init_arguments(forward: dict[str, Any]) -> dict[str, Any]:
    arguments = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    arguments |= forward["ray_kwargs"]
    address = forward["address"]
    if forward["password"] is not None:
        arguments["_redis_password"] = forward["password"]
    if address is not None:
        return arguments | {"address": address}
    own = {name: forward[name] for name in ("num_cpus", "num_gpus") if forward[name] is not None}
    if own:  # with a size, start a Ray of our own; without one, Ray finds what is there
        arguments |= own | {"address": "local"}
    return arguments


def _is_ray_client() -> bool:
    return bool(ray.util.client.ray.is_connected())


def _own_address() -> str | None:
    """Where the nodes reach this machine; None: they do not."""
    if _is_ray_client():
        return None
    own = ray.get_runtime_context().get_node_id()
    return next((str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == own), None)


def _capacity(resources: dict[str, float], forward: dict[str, Any]) -> int:
    """How many attempts the cluster has room for. At least one: the cluster may grow for it."""
    counts = [resources.get("CPU", 0) // forward["num_cpus_per_task"]]
    if forward["num_gpus_per_task"]:
        counts.append(resources.get("GPU", 0) // forward["num_gpus_per_task"])
    return max(1, int(min(counts)))


def _has_begun(value: Any) -> bool:
    try:
        return ray.get(value) is None
    except RayError:
        return False


def _outcome(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except RayError as error:
        return error


def _describe_loss(error: BaseException) -> str:
    if isinstance(error, RayTaskError) and not isinstance(error, TaskCancelledError):
        return f"Ray could not run this job: {_one_line(error)}"
    return describe_death("ran this job", _one_line(error), b"").decode()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:2000] or type(error).__name__


if __name__ == "__main__":
    serve(RayBackend)
