"""Follows campaigns for browsers: one follower for each that is watched, shared by all its viewers.

What looking costs is so a matter of campaigns and seconds, not of viewers.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from queue_eval.campaign.commands import CampaignCommands
from queue_eval.campaign.keys import check_campaign_name
from queue_eval.errors import QueueEvalError, ServerUnreachableError
from queue_eval.transport.access import Access
from queue_eval.web.campaign_list import CampaignList
from queue_eval.web.documents import CampaignDocuments, compared
from queue_eval.web.follower import LOOK_EVERY_S, Drop, Follower
from queue_eval.web.topics import AWAY, GONE, Topic

MOST_FOLLOWED = 32
"""So many campaigns are followed at once."""

LIST = Topic("campaigns")

_BUDGET_S = 0.2
"""A look reads results for about so long. While some are unread, the next look follows at once."""

_COST_FACTOR = 20
"""A document is made anew at most so many times as long after it was made as that took."""

_HEAVY_BYTES = 32 * 1024
_HEAVY_EVERY_S = 3.0
"""A document of more bytes is sent only so often."""


class CampaignFollower(Follower):
    """Looks at one campaign."""

    def __init__(self, access: Access, campaign: str, drop: Drop) -> None:
        self.campaign = campaign
        super().__init__(access, drop)
        self._documents: CampaignDocuments | None = None
        self._due_at: dict[Topic, float] = {}

    @property
    def queue(self) -> CampaignCommands:
        """The campaign, once a look has found it. Its calls give up soon while the server is away."""
        return self.documents.queue

    @property
    def documents(self) -> CampaignDocuments:
        """For `read` only."""
        assert self._documents is not None, "nobody has looked yet"
        return self._documents

    def document(self, topic: Topic) -> Any:
        """The document of a topic as of the last look."""
        return self.read(lambda: self.documents.of(topic))

    @property
    def _name(self) -> str:
        return f"queue_eval-web-{self.campaign}"

    def _look(self) -> bool:
        if self._documents is None:
            self._documents = CampaignDocuments(CampaignCommands.attach(self.link, self.campaign)[0])
        is_at_end = self._documents.look(_BUDGET_S)
        wanted = {topic for topic in self.publisher.wanted() if isinstance(topic, Topic)} - {AWAY, GONE}
        for topic in sorted(wanted, key=lambda topic: topic.kind != "overview"):
            self._publish(self._documents, topic)
        self._due_at = {topic: due_at for topic, due_at in self._due_at.items() if topic in wanted}
        self._documents.keep_only(wanted)
        self.publisher.keep_only(wanted | {AWAY, GONE})
        return is_at_end

    def _publish(self, documents: CampaignDocuments, topic: Topic) -> None:
        """Publish a document, unless it was made too short a time ago."""
        started = time.monotonic()
        if started < self._due_at.get(topic, 0.0):
            return
        document = documents.of(topic)
        if document is None:
            return
        size = self.publisher.publish(topic, topic.kind, document, compared(topic, document))
        cost_s = time.monotonic() - started
        pause_s = max(0.9 * LOOK_EVERY_S, _COST_FACTOR * cost_s, _HEAVY_EVERY_S if size > _HEAVY_BYTES else 0)
        self._due_at[topic] = started + pause_s

    def poke(self) -> None:
        """Look now, and make each document anew."""
        self._due_at = {}
        super().poke()

    def _close(self) -> None:
        if self._documents is not None:
            self._documents.close()


class ListFollower(Follower):
    """Looks at the list of all campaigns."""

    def __init__(self, access: Access, drop: Drop) -> None:
        super().__init__(access, drop)
        self._list = CampaignList(self.link)
        self._due_at = 0.0

    def document(self) -> Any:
        return self.read(self._list.document)

    def metrics(self) -> str:
        return self.read(self._list.metrics)

    @property
    def _name(self) -> str:
        return "queue_eval-web-campaigns"

    def _look(self) -> bool:
        started = time.monotonic()
        if started < self._due_at:
            return True
        self._list.look()
        document = self._list.document()
        self.publisher.publish(LIST, "campaigns", document)
        self._due_at = started + _COST_FACTOR * (time.monotonic() - started)
        return True

    def poke(self) -> None:
        self._due_at = 0.0
        super().poke()

    def _close(self) -> None:
        pass


class Followers:
    """All followers of one web server. Safe to use from several threads."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._of_campaigns: dict[str, CampaignFollower] = {}
        self._of_list: ListFollower | None = None
        self._is_closed = False

    def of(self, campaign: str) -> CampaignFollower:
        """The follower of a campaign, started if need be.

        Raises UsageError for what is no name of a campaign, and QueueEvalError when too many are followed.
        """
        check_campaign_name(campaign)
        with self._lock:
            found = self._of_campaigns.get(campaign)
            if found is None:
                self._check_open()
                if len(self._of_campaigns) >= MOST_FOLLOWED:
                    raise QueueEvalError(
                        f"{MOST_FOLLOWED} campaigns are being looked at already; close pages of others, and "
                        "try again a minute later"
                    )
                found = self._of_campaigns[campaign] = CampaignFollower(self._access, campaign, self._drop)
                found.start()
            found.touch()
            return found

    def of_list(self) -> ListFollower:
        """The follower of the list of campaigns, started if need be."""
        with self._lock:
            if self._of_list is None:
                self._check_open()
                self._of_list = ListFollower(self._access, self._drop)
                self._of_list.start()
            self._of_list.touch()
            return self._of_list

    def stop(self) -> None:
        """End all followers and their subscriptions soon. May be called twice."""
        with self._lock:
            self._is_closed = True
            followers = self._all()
        for follower in followers:
            follower.stop()

    def close(self) -> None:
        """End all followers, and wait for that."""
        followers = self._all()
        self.stop()
        for follower in followers:
            follower.join(10.0)

    def _all(self) -> list[Follower]:
        of_list = [] if self._of_list is None else [self._of_list]
        return [*self._of_campaigns.values(), *of_list]

    def _drop(self, follower: Follower, is_over: bool) -> bool:
        """Hand this follower out no more, unless somebody has come for it meanwhile."""
        with self._lock:
            if not (is_over or follower.has_lingered):
                return False
            if follower is self._of_list:
                self._of_list = None
            for campaign, other in [*self._of_campaigns.items()]:
                if other is follower:
                    del self._of_campaigns[campaign]
        return True

    def _check_open(self) -> None:
        if self._is_closed:
            raise ServerUnreachableError("this web server ends; start it again")
