"""What a run in the terminal shows of Dagster's log: what this project says, one sentence a line, and no event or traceback.

Both stay in the run's log (*Runs* in the UI): a traceback of sixty lines hides the one sentence about a wrong line in a file.
"""

import logging
import sys
from typing import Any

import dagster as dg

NAME = "terminal"


class _Sentence(logging.Formatter):
    """The message as it was written, without time, run and step, indented below the line that announces the step."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        return f"            {_meta(record).get('orig_message') or record.getMessage()}"


def _meta(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "dagster_meta", None) or {}


@dg.logger
def terminal_logger(_context: dg.InitLoggerContext) -> logging.Logger:
    """A logger of its own for each run, without Dagster's events."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Sentence())
    handler.addFilter(lambda record: _meta(record).get("dagster_event") is None)
    logger = logging.Logger(NAME, logging.INFO)
    logger.addHandler(handler)
    return logger
