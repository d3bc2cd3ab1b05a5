"""What has finished, a page at a time: outcomes with the configs of their jobs.

::

    call 1:                       XRANGE page 1
    call 2:  HMGET configs of 1,  XRANGE page 2
    call 3:  HMGET configs of 2,  XRANGE page 3 ...

One call reads the configs of a page (and its tags, where the campaign has any) and the outcomes of the next:
the round trip takes as long as the server works on a page, so half as many calls take half the time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from queue_eval.campaign.paging import Portion
from queue_eval.campaign.result_stream import ResultEntry, parse_entries
from queue_eval.campaign.view import CampaignView, parse_config
from queue_eval.errors import DamagedError

Past = tuple[ResultEntry, int, bytes, bytes]
"""An outcome, when its job was submitted (ms), the config (JSON), and the tag (JSON; empty for none)."""


def past_pages(view: CampaignView, tail: str) -> Iterator[list[Past]]:
    """The outcome of each finished job up to the entry `tail`, in the order in which they finished.

    Left out are outcomes of jobs that the user runs again (`retry`), and of jobs that were never submitted.
    """
    portion = Portion()
    page: list[ResultEntry] = []
    cursor = "0-0"
    has_tags = False
    while True:
        ids = [entry.id for entry in page]
        origins, (was_retried, has_tags), following = _read(
            view, ids, cursor, tail, portion.count, has_tags=has_tags
        )
        found = [
            (entry, *parse_config(config), tag or b"")
            for entry, (config, tag) in zip(page, origins, strict=True)
            if config is not None
        ]
        if was_retried:
            found = _current(view, found)
        if page:
            portion.adapt(len(page), sum(len(entry.body) + len(config) for entry, _, config, _ in found))
            yield found
        if not following:
            return
        page, cursor = following, following[-1].entry


def _read(
    view: CampaignView, ids: Sequence[int], cursor: str, tail: str, count: int, *, has_tags: bool
) -> tuple[list[tuple[bytes | None, bytes | None]], tuple[bool, bool], list[ResultEntry]]:
    """Configs and tags of `ids`, whether any job was ever retried and any has a tag, and the outcomes after
    `cursor`."""

    def operation(client: Any) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        pipeline.hmget(view.keys.meta, "retried", "extras")
        pipeline.xrange(view.keys.results, f"({cursor}", tail, count)
        if ids:
            pipeline.hmget(view.keys.configs, ids)
        if ids and has_tags:
            pipeline.hmget(view.keys.column("tags"), ids)
        replies: list[Any] = pipeline.execute()
        return replies

    try:
        (retried, has_extras), raw, *columns = view.link.call(operation)
    except DamagedError:  # perhaps only the tags are: then there are none
        if not has_tags:
            raise
        return _read(view, ids, cursor, tail, count, has_tags=False)
    configs = columns[0] if columns else []
    tags = columns[1] if len(columns) > 1 else [None] * len(configs)
    facts = retried not in (None, b"0"), has_extras is not None
    return list(zip(configs, tags, strict=True)), facts, parse_entries(raw)


def _current(view: CampaignView, page: list[Past]) -> list[Past]:
    """Those outcomes that are still in the index; the stream also keeps former ones of retried jobs."""
    index = view.index_of([entry.id for entry, *_ in page])
    return [past for past, current in zip(page, index, strict=True) if current == past[0].entry]


@contextmanager
def without_collections() -> Iterator[None]:
    """Turn the cyclic GC off while a million jobs are built.

    None of them is garbage, and each collection would scan them all.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
