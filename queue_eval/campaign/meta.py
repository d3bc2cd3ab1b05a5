"""Reads the meta of a campaign: what it was opened with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from queue_eval.campaign.keys import DEFAULT_QUEUE
from queue_eval.model.codec import FAIL_RETURN_VALUE, decode

Meta = Mapping[str, bytes]


def text_of(meta: Meta, field: str) -> str:
    """A field as text; empty where there is none."""
    return meta.get(field, b"").decode(errors="replace")


def label_of(meta: Meta) -> str:
    """The label by which workers are chosen (`queue`)."""
    return text_of(meta, "queue") or DEFAULT_QUEUE


def created_ms_of(meta: Meta) -> int:
    """When it was created (Unix, ms)."""
    return int(meta["created_ms"])


def failure_value_of(meta: Meta) -> Any:
    """Its `failure_value`; campaigns of earlier versions name none."""
    try:
        return decode(meta["failure_value"])
    except (KeyError, ValueError):
        return FAIL_RETURN_VALUE
