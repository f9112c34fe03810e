"""Progress lines: whoever waits for hours must be able to decide whether to wait or to kill."""

import pytest

from distill_assets import progress
from distill_assets.progress import Progress, as_duration, told_to


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_line_has_speed_and_time_left_and_comes_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log without speed and time left cannot say whether to wait or to kill; one with a line a pair cannot be read."""
    clock, said = Clock(monkeypatch), list[str]()
    with told_to(said.append):
        work = Progress("teacher scores", 10_000, "pairs")
        for seconds, count in ((4, 1000), (5, 100), (1, 400), (9, 0), (1, 1500)):
            clock.now += seconds
            work.advance(count)
    assert said == [
        "teacher scores 1,500 of 10,000 pairs, 150 a second, 57 s left",
        "teacher scores 3,000 of 10,000 pairs, 150 a second, 47 s left",
    ]


def test_lines_grow_rare_but_come_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day's work with a line each ten seconds buries what else the log says; without any it seems to hang."""
    clock, said = Clock(monkeypatch), list[str]()
    with told_to(said.append):
        work = Progress("training", 36_000, "steps")
        for _ in range(36_000):
            clock.now += 1
            work.advance()
    assert 600 < len(said) < 700
    assert said[-1].startswith("training 35,") and "1 a second" in said[-1]


def test_short_work_is_silent_and_nothing_done_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A division by zero in a progress line would end hours of work."""
    clock, said = Clock(monkeypatch), list[str]()
    with told_to(said.append):
        work = Progress("texts encoded", 2, "texts")
        clock.now += 9
        work.advance(0)
        assert not said
        clock.now += 2
        work.advance(0)
    assert said == ["texts encoded 0 of 2 texts, 0 a second, unknown time left"]


def test_outside_an_asset_lines_go_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stdout they would stand in the document of --json."""
    clock = Clock(monkeypatch)
    work = Progress("texts encoded", 100, "texts")
    clock.now += 20
    work.advance(50)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "texts encoded 50 of 100 texts, 2.5 a second, 20 s left\n")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (1500, "25 min"), (7510, "2 h 5 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    """Seconds of a long run say nothing to a person."""
    assert as_duration(seconds) == shown
