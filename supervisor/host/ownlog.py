"""The log of plugind itself."""

import logging
import os
import sys
from contextlib import suppress

import structlog


class Stderr:
    """Descriptor 2, where plugind's own log goes. A reader that is gone or a full disk costs lines only."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing waits here."""


def set_up_logs() -> None:
    """Console for a terminal, JSON otherwise; to stderr."""
    on_terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(Stderr()),  # type: ignore[arg-type]  # all that it uses
        cache_logger_on_first_use=True,
    )
