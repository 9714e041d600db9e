"""Every transition reaches every subscriber in order; who is too slow is told so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine_fakes import V1, a_key

from supervisor.domain.events import Start
from supervisor.domain.mount import Mount
from supervisor.engine import feed as feeds
from supervisor.engine.feed import Feed, Lagged, Transition

MOUNT = Mount(a_key("auth/a"))


def publish(feed: Feed, count: int = 1) -> None:
    for _ in range(count):
        feed.publish(MOUNT, Start(V1), MOUNT, (), 1.0, 77)


async def take(events: AsyncIterator[Transition], count: int) -> list[int]:
    return [(await anext(events)).number for _ in range(count)]


async def listening(feed: Feed) -> Any:
    """A subscription that is in force; it has taken one transition."""
    events = feed.subscribe(None)
    first = asyncio.ensure_future(anext(events))
    await asyncio.wait([first], timeout=0)
    publish(feed)
    await first
    return events


@pytest.fixture
def told() -> list[Transition]:
    return []


@pytest.fixture
def feed(told: list[Transition]) -> Feed:
    return Feed(told.append)


async def test_each_subscriber_gets_everything_in_order(feed: Feed, told: list[Transition]) -> None:
    one, other = await listening(feed), await listening(feed)

    publish(feed, 3)

    assert await take(one, 4) == [2, 3, 4, 5]  # the other's first is number 2
    assert await take(other, 3) == [3, 4, 5]
    assert [step.number for step in told] == [1, 2, 3, 4, 5]


async def test_what_was_missed_comes_first(feed: Feed) -> None:
    publish(feed, 5)

    events = feed.subscribe(after=3)

    assert await take(events, 2) == [4, 5]
    publish(feed)
    assert await take(events, 1) == [6]


async def test_what_is_published_while_the_missed_is_read_comes_after_it_and_once(feed: Feed) -> None:
    publish(feed, 3)
    events = feed.subscribe(after=0)

    first = await take(events, 1)
    publish(feed, 2)

    assert first + await take(events, 4) == [1, 2, 3, 4, 5]


async def test_a_slow_subscriber_is_dropped_and_the_others_get_everything(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SLOW", 5)
    slow, quick = await listening(feed), await listening(feed)

    received = []
    for _ in range(10):
        publish(feed)
        received += await take(quick, 1)

    assert received == [*range(3, 13)]
    assert await take(slow, 5) == [2, 3, 4, 5, 6]
    with pytest.raises(Lagged, match="the reader was too slow"):
        await anext(slow)
    assert len(feed._subscribers) == 1


async def test_who_has_much_to_catch_up_with_is_not_slow_for_that(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SLOW", 5)
    publish(feed, 20)
    events = feed.subscribe(after=2)

    first = await take(events, 1)
    publish(feed)

    assert first + await take(events, 18) == [*range(3, 22)]


async def test_an_id_of_an_earlier_plugind_means_everything_since(feed: Feed) -> None:
    publish(feed, 2)

    assert await take(feed.subscribe(after=8000), 2) == [1, 2]


async def test_what_is_too_old_is_not_known_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "REMEMBERED", 4)
    small = Feed(lambda _: None)
    publish(small, 10)

    assert await take(small.subscribe(after=1), 4) == [7, 8, 9, 10]


async def test_a_subscriber_that_goes_away_is_forgotten(feed: Feed) -> None:
    events = await listening(feed)

    await events.aclose()

    assert feed._subscribers == set()
