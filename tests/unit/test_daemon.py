"""The begin of a daemon, where something is refused that was there a moment ago."""

from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import daemon
from supervisor.domain.errors import Cannot


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Have the settings refused so many times; what was done about it."""

    def refuse(times: int) -> list[str]:
        done: list[str] = []

        def load(_: Path | None) -> tuple[str, str]:
            done.append("read")
            if len(done) <= times:
                raise Cannot("cannot look at /var/log: Input/output error")
            return "settings", "defaults"

        monkeypatch.setattr(daemon, "load_settings", load)
        monkeypatch.setattr(daemon, "prepare_process", lambda _: done.append("prepared"))
        monkeypatch.setattr(daemon, "PAUSE", 0.0)
        return done

    return refuse


def test_after_an_upgrade_settings_that_cannot_be_read_for_a_moment_are_read_again(
    refused: Callable[[int], list[str]],
) -> None:
    done = refused(3)

    assert daemon.prepared(None, tries=5) == ("settings", "defaults")
    assert done == ["read", "read", "read", "read", "prepared"]


@pytest.mark.parametrize(("tries", "read"), [(0, 1), (5, 6)])
def test_settings_that_stay_unreadable_end_it(
    refused: Callable[[int], list[str]], tries: int, read: int
) -> None:
    done = refused(100)

    with pytest.raises(Cannot):
        daemon.prepared(None, tries=tries)

    assert done == ["read"] * read
