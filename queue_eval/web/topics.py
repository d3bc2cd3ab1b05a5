"""What a browser may ask of a campaign, read from the query of an address and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from queue_eval.errors import UsageError
from queue_eval.views.curves import MOST_CURVES

PANELS = ("overview", "course", "curves", "slots")
"""What is pushed to a browser that names nothing else."""

KINDS = (*PANELS, "sample", "job")
DIRECTIONS = ("max", "min")
_MOST_CHARACTERS = 200


class Topic(NamedTuple):
    """One document of a campaign."""

    kind: str
    """One of `KINDS`; "away" and "gone" go to everybody."""
    key: str | None = None
    """The name of the number in the results; None: the main one."""
    direction: str = "max"
    name: str | None = None
    """The name of the value in the reports."""
    ids: tuple[int, ...] = ()


AWAY, GONE = Topic("away"), Topic("gone")

Query = Mapping[str, str]


def topic_of(kind: str, query: Query) -> Topic:
    """The document of this kind that a query asks for. Raises UsageError."""
    if kind in ("overview", "course", "sample"):
        return Topic(kind, _text(query, "key"), one_of(query, "direction", DIRECTIONS))
    if kind == "curves":
        return Topic(kind, name=_text(query, "name"), ids=ids_of(query.get("ids", "")))
    if kind == "job":
        return Topic(kind, name=_text(query, "name"), ids=ids_of(query.get("job", ""))[:1])
    return Topic(kind)


def pushed_topics(query: Query) -> set[Topic]:
    """What is to be pushed: `panels` (a list with commas, else all), and a `job`. Raises UsageError."""
    named = [kind for kind in query.get("panels", ",".join(PANELS)).split(",") if kind]
    unknown = [kind for kind in named if kind not in KINDS]
    if unknown:
        raise UsageError(f"there is no panel {unknown[0][:50]!r}; name some of {', '.join(KINDS)}")
    if query.get("job"):
        named.append("job")
    found = {topic_of(kind, query) for kind in named} | {AWAY, GONE}
    return {topic for topic in found if topic.kind != "job" or topic.ids}


def ids_of(text: str) -> tuple[int, ...]:
    """The ids of a list with commas. Raises UsageError."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if any(not (word.isascii() and word.isdigit() and len(word) < 16 and int(word)) for word in words):
        raise UsageError(f"{text[:50]!r} is no list of job ids; write it like 3,17")
    if len(words) > MOST_CURVES:
        raise UsageError(f"{len(words)} ids are too many; name at most {MOST_CURVES}")
    return tuple(map(int, words))


def one_of(query: Query, name: str, values: tuple[str, ...]) -> str:
    """A word of the query that must be one of these; the first of them where it is missing."""
    value = query.get(name) or values[0]
    if value not in values:
        raise UsageError(f"{name} {value[:50]!r} is not valid; give one of {', '.join(values)}")
    return value


def _text(query: Query, name: str) -> str | None:
    value = query.get(name)
    if value is not None and len(value) > _MOST_CHARACTERS:
        raise UsageError(f"{name} is longer than {_MOST_CHARACTERS} characters; give a name")
    return value
