import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # tests are no package; host_probing is beside this file

from host_probing import leave_all


@pytest.fixture(autouse=True)
def _what_was_entered_is_left() -> Iterator[None]:
    yield
    leave_all()
