"""What is kept for browsers: the newest document of each topic, once for all of them."""

from __future__ import annotations

import asyncio

import pytest

from queue_eval.errors import UsageError
from queue_eval.web.pushed import Publisher
from queue_eval.web.topics import AWAY, GONE, Topic, pushed_topics


def test_a_subscription_that_is_not_read_gets_the_newest_document_only():
    async def read() -> list[bytes | None]:
        publisher = Publisher()
        subscription = publisher.subscribe({"a"})
        for number in range(1000):
            publisher.publish("a", "overview", {"n": number})
            publisher.publish("b", "course", {"n": number})
        frames = [await subscription.next_frames()]
        publisher.publish("a", "overview", {"n": 999})  # as before: nothing new
        publisher.publish("a", "overview", {"n": 1000, "clock": 1}, compared="1000")
        publisher.publish("a", "overview", {"n": 1000, "clock": 2}, compared="1000")
        frames.append(await subscription.next_frames())
        publisher.publish("a", "overview", {"n": 1001})
        publisher.close()
        frames += [await subscription.next_frames(), await subscription.next_frames()]
        assert len(publisher.after(0, {"a", "b"})) == 2
        subscription.close()
        assert publisher.wanted() == set()
        return frames

    assert asyncio.run(read()) == [
        b'id: 1999\nevent: overview\ndata: {"n":999}\n\n',
        b'id: 2001\nevent: overview\ndata: {"n":1000,"clock":1}\n\n',
        b'id: 2002\nevent: overview\ndata: {"n":1001}\n\n',
        None,
    ]


def test_what_is_withdrawn_is_sent_again():
    publisher = Publisher()
    publisher.publish("a", "overview", {})
    (first,) = publisher.after(0, {"a"})
    publisher.withdraw({"a"})
    assert publisher.after(0, {"a"}) == []
    publisher.publish("a", "overview", {})
    (again,) = publisher.after(first.number, {"a"})
    assert again.number > first.number


def test_topics_of_an_address():
    assert {topic.kind for topic in pushed_topics({})} == {
        "overview", "course", "curves", "slots", "away", "gone",
    }  # fmt: skip
    assert pushed_topics({"panels": "", "job": "7"}) == {Topic("job", ids=(7,)), AWAY, GONE}
    wanted = pushed_topics({"panels": "course", "key": "loss", "direction": "min"})
    assert Topic("course", "loss", "min") in wanted


@pytest.mark.parametrize(
    "query",
    [
        {"panels": "away"}, {"job": "0"}, {"job": "x"}, {"job": "1" * 16}, {"ids": ",".join("1" * 21)},
        {"key": "k" * 201}, {"direction": "best"},
    ],
)  # fmt: skip
def test_what_nobody_can_ask(query):
    with pytest.raises(UsageError):
        pushed_topics(query)
