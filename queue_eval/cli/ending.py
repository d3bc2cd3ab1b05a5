"""How the jobs of a campaign have ended, as `run` and `wait` say it: counts, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping

from queue_eval.cli.progress import shown_causes
from queue_eval.model.states import State
from queue_eval.transport.access import Access
from queue_eval.transport.hints import spell_command

FINALS = tuple(state for state in State if state.is_final)


def shown_counts(counts: Mapping[State, int], causes: Mapping[str, int]) -> str:
    """Like ``3 succeeded, 1 failed``, without what there is none of. `causes` are those of the failures."""
    why = {State.FAILED: shown_causes(causes)}
    return ", ".join(f"{counts[state]} {state}{why.get(state, '')}" for state in FINALS if counts[state])


def why_not_all_succeeded(
    campaign: str, counts: Mapping[State, int], causes: Mapping[str, int], first_failed: int | None,
    access: Access | None,
) -> str | None:  # fmt: skip
    """How many of the finished jobs failed or were cancelled, and what to do; None if all succeeded.

    `access`: the server for the commands that this tells, where it is known.
    """
    total = sum(counts[state] for state in FINALS)
    if first_failed is not None:
        return (
            f"{counts[State.FAILED]} of {total} jobs failed{shown_causes(causes)}; "
            f"see why with: {spell_command(access, 'job', campaign, str(first_failed))}"
        )
    if counts[State.CANCELLED]:
        return (
            f"{counts[State.CANCELLED]} of {total} jobs were cancelled; "
            f"run them with: {spell_command(access, 'retry', campaign, 'ID')}"
        )
    return None
