"""Two things at one mount: each pair of docs/concurrency.md at a real daemon, with real processes."""

import pytest
from arena import Real
from concurrency import TABLE, page, pair
from harness import ROOT


@pytest.mark.parametrize(("first", "second"), TABLE)
def test_what_comes_during_something_else_has_the_outcome_that_is_written_down(
    arena: Real, first: str, second: str
) -> None:
    assert pair(arena, first, second) == TABLE[first, second]


def test_the_table_in_the_docs_is_this_one() -> None:
    assert (ROOT / "docs/concurrency.md").read_text() == page()
