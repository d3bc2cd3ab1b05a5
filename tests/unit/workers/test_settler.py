"""The order of a worker's calls."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.model.moves import Lease, Settled, Settlement
from queue_eval.model.states import Method, Outcome
from queue_eval.runtime.pipe import Setup
from queue_eval.transport.link import NodeAwayError
from workers.executors.protocol import Ended, Plan
from workers.options import WorkerOptions
from workers.settler import Settler
from workers.state.served_campaign import ServedCampaign
from workers.state.worker_state import WorkerState


class _Campaign:
    """A campaign that writes down what it is told, and lets something happen meanwhile."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.settled: list[int] = []
        self.unknown: list[str] = []
        """Sources of results that it was told before it was told what they are made of."""
        self.meanwhile: list[Callable[[], None]] = []

    def note_load(self, revision: int | None, sources: dict[str, str]) -> None:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        self.known |= set(sources)

    def settle(self, worker: str, settlements: Sequence[Settlement], *, room: int, **_: Any) -> Settled:
        self.settled += [one.id for one in settlements]
        self.unknown += [one.source for one in settlements if one.source not in self.known]
        leases = [Lease(number, 1, True, b"{}") for number in (1, 2)] if not self.settled else []
        return Settled(leases[:room], None, 0, 1, ["ok" for _ in settlements])


def _fail() -> None:
    raise NodeAwayError("the node is away")


@pytest.mark.parametrize("why", ["a result ends while another is told of", "the first call fails"])
def test_what_code_a_result_is_of_is_told_before_the_result(why: str, monkeypatch: pytest.MonkeyPatch):
    """Its driver looks that up once, as it gathers the result, and warns of other code than its own."""
    monkeypatch.setattr(sys.modules[ServedCampaign.__module__], "PUT_OFF_S", 0.01)
    state, campaign = WorkerState(), _Campaign()
    plan = Plan(Method.THREAD, Setup("run:run", None, (), {}, threads=1), 2, None, sys.executable, revision=1)
    state.campaigns.serve(CampaignCommands(cast("Any", None), "c", "uid"), plan)
    ((served, _),) = state.campaigns.holdings()
    served.settler_queue = cast("Any", campaign)
    started: list[int] = []

    class Runner:
        def submit(self, lane_id: str, plan: Plan, attempts: Sequence[Any]) -> None:
            started.extend(one.token[0] for one in attempts)

    settler = Settler(
        cast("Any", None), WorkerOptions(slots=2), state, cast("Any", Runner()), None, cast("Any", None)
    )
    settler._sign_roster = lambda served: None  # type: ignore[method-assign]

    def end(job: int, source: str) -> None:
        token = (job, 1)
        ended = Ended(token, Outcome.OK, 1.0, 1.0, time.monotonic(), source, b"1", b"", source_parts={})
        state.ended(served.lane_id, [ended], 0)

    def end_second() -> None:
        end(2, "of the second")
        state.drain()

    for call in [state.prepare(one) for one in state.take_turn()]:
        assert call is not None
        settler._make_call(call)
    assert started == [1, 2]
    campaign.meanwhile = [_fail, end_second] if why == "the first call fails" else [end_second]
    end(1, "of the first")
    settler.run()
    assert sorted(campaign.settled) == [1, 2]
    assert campaign.unknown == []
