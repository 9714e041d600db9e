"""Whatever is written in whatever pieces: the files are the stream, and each line is in one of them."""

import os
import tempfile
from pathlib import Path

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.domain.catalog import LogPolicy
from supervisor.host.logfifo import Fifo, Scratch
from supervisor.host.logfile import LONGEST_LINE, LogFile, cut
from supervisor.host.logindex import Index

pieces = st.lists(
    st.binary(min_size=1, max_size=60) | st.sampled_from([b"\n", b"ab\n", b"x" * 200]), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(written=pieces, max_size=st.integers(1, 100), most=st.integers(1, 200), through_memory=st.booleans())
def test_rotated_files_are_the_stream_cut_at_line_ends(
    written: list[bytes], max_size: int, most: int, *, through_memory: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.log"
        log = structlog.get_logger()
        index = Index(path.with_name("x.log.index"), 1001)
        file = LogFile(path, LogPolicy(max_size, keep=1000), index, log)
        fifo, scratch = Fifo.opened(Path(name) / "x.fifo"), Scratch()
        into = os.open(fifo.door, os.O_RDWR)
        for piece in written:
            if through_memory:
                assert file.append(piece, 0.0) == len(piece)
            else:
                with open(into, "wb", buffering=0, closefd=False) as end:
                    end.write(piece)
                while file.take(fifo, scratch, most, 0.0):
                    pass
        file.ready(0.0)
        file.close()
        os.close(into)
        fifo.close()
        scratch.close()

        rotated = sorted(Path(name).glob("x.log.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
        texts = [path.read_bytes() for path in (*rotated, path)]
    assert b"".join(texts) == b"".join(written)
    assert all(text.endswith(b"\n") for text in texts[:-1])
    for text in texts:  # too large only by the end of its last line
        assert text.rfind(b"\n", 0, -1) < max_size
    assert len(index.files) == len(texts)


@given(seen=st.binary(max_size=50), room=st.integers(-LONGEST_LINE - 10, 60), must_begin=st.booleans())
def test_a_cut_always_gets_on_and_never_takes_more_than_there_is(
    seen: bytes, room: int, *, must_begin: bool
) -> None:
    count, is_full = cut(seen, room, must_begin=must_begin)

    assert 0 <= count <= len(seen)
    assert count or is_full or not seen
    assert count <= max(room, 0) or must_begin
