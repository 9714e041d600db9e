import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # tests are no package; engine_fakes is beside this file

from engine_fakes import House, keeping


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A node with all its surroundings; nothing has begun. Its TaskGroup must outlive the test."""
    async with keeping() as tasks:
        yield House(tasks)
