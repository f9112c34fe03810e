"""What a run in the terminal shows of Dagster's log: what this project says, one sentence a line, and no event or traceback.

Both stay in the run's log (*Runs* in the UI): a traceback of sixty lines hides the one sentence about a wrong line in a file.
"""

import logging
import sys
from typing import Any

import dagster as dg

NAME = "terminal"


class _Sentence(logging.Formatter):
    """The message as it was written, without time, run and step."""

    def format(self, record: logging.LogRecord) -> str:
        """Indented below the line that announces the step."""
        return f"            {_meta(record).get('orig_message') or record.getMessage()}"


def _is_said(record: logging.LogRecord) -> bool:
    """Whether the project says it, and no event of Dagster."""
    return _meta(record).get("dagster_event") is None


def _meta(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "dagster_meta", None) or {}


@dg.logger
def terminal_logger(_context: dg.InitLoggerContext) -> logging.Logger:
    """A logger of its own for each run."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Sentence())
    handler.addFilter(_is_said)
    logger = logging.Logger(NAME, logging.INFO)
    logger.addHandler(handler)
    return logger
