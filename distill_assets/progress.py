"""Progress of long work as lines of a log: how far, how fast, how much longer. The same lines in a terminal, a file and the UI.

Who runs an asset names the log with `told_to`. Elsewhere lines go to stderr. Work of less than ten seconds says nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Say = Callable[[str], None]
# A line after 10 s, then each tenth of the time so far, at least one a minute.
_FIRST_S, _SHARE, _LONGEST_S = 10.0, 0.1, 60.0


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


_say: ContextVar[Say] = ContextVar("say", default=_to_stderr)


@contextmanager
def told_to(say: Say) -> Iterator[None]:
    """Within the block, in this thread, progress is told to `say`."""
    token = _say.set(say)
    try:
        yield
    finally:
        _say.reset(token)


def tell(line: str) -> None:
    """Tell one line now."""
    _say.get()(line)


class Progress:
    """Counts `total` things of a kind ("pairs") that some work ("teacher scores") goes through."""

    def __init__(self, work: str, total: int, things: str) -> None:
        self.work, self.total, self.things = work, total, things
        self.num_done = 0
        self._started = time.monotonic()
        self._next = self._started + _FIRST_S

    def advance(self, count: int = 1) -> None:
        """`count` more are done. Tells a line where one is due."""
        self.num_done += count
        now = time.monotonic()
        if now < self._next:
            return
        seconds = now - self._started
        self._next = now + min(_LONGEST_S, max(_FIRST_S, _SHARE * seconds))
        speed = self.num_done / seconds
        left = as_duration((self.total - self.num_done) / speed) if speed else "unknown time"
        shown = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        tell(f"{self.work} {self.num_done:,} of {self.total:,} {self.things}, {shown} a second, {left} left")


def as_duration(seconds: float) -> str:
    """For people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
