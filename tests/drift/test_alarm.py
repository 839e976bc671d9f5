"""A row of windows: when an alarm opens, becomes broken data, and closes."""

from __future__ import annotations

import pytest

from lastgood.drift import alarm
from lastgood.drift.verdict import Column, WindowVerdict

PASS = WindowVerdict(outcome="pass", why="", rows=10)
SILENT = WindowVerdict(outcome="inconclusive", why="", rows=1)
BROKEN = WindowVerdict(outcome="broken", why="", rows=0)


def fail(*names: str) -> WindowVerdict:
    """A window in which these columns fail."""
    return WindowVerdict(outcome="fail", why="", rows=10, columns=tuple(Column(name=name, outcome="fail", why="") for name in names))


def changes(*verdicts: WindowVerdict, persistence: int = 3) -> list[alarm.Change]:
    """What each window changes; window n begins at n."""
    return [change for _, change in walk(*verdicts, persistence=persistence)]


def walk(*verdicts: WindowVerdict, persistence: int = 3) -> list[tuple[alarm.FailingRun, alarm.Change]]:
    """Where the service stands after each window, and what that changed."""
    found, episode = [], alarm.FailingRun()
    for number, verdict in enumerate(verdicts):
        episode, change = alarm.follow(episode, verdict, begin=float(number), persistence=persistence)
        found.append((alarm.from_json(episode.to_json()), change))
    return found


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([fail("x")] * 3, ["", "", "opened"]),
        ([fail("x")] * 5, ["", "", "opened", "", ""]),
        ([fail("x"), fail("x"), PASS, fail("x"), fail("x"), fail("x")], ["", "", "", "", "", "opened"]),
        ([fail("x"), fail("x"), SILENT, fail("x")], ["", "", "", "opened"]),
        ([fail("x"), fail("x"), fail("y"), fail("y"), fail("y")], ["", "", "", "", "opened"]),
        ([fail("x", "y"), fail("x"), fail("x", "z")], ["", "", "opened"]),
        ([BROKEN], ["opened"]),
        ([fail("x"), BROKEN, BROKEN], ["", "opened", ""]),
        ([*[fail("x")] * 3, BROKEN, BROKEN], ["", "", "opened", "worse", ""]),
        ([BROKEN, PASS, PASS, PASS, PASS], ["opened", "", "", "closed", ""]),
        ([BROKEN, PASS, PASS, fail("x"), PASS, PASS, PASS], ["opened", "", "", "", "", "", "closed"]),
        ([BROKEN, PASS, SILENT, PASS, PASS], ["opened", "", "", "", "closed"]),
        ([BROKEN, PASS, PASS, PASS, BROKEN], ["opened", "", "", "closed", "opened"]),
    ],
)
def test_alarms_open_and_close(verdicts: list[WindowVerdict], expected: list[str]) -> None:
    """The same column in three windows in a row; broken data at once; closed after three that pass."""
    assert changes(*verdicts) == expected


def test_an_alarm_begins_with_its_first_window() -> None:
    """Not with the one that made it sure: the rows since then are what is judged."""
    episode, change = walk(PASS, fail("x"), fail("x", "y"), fail("x"))[-1]
    assert (change, episode.alarm, episode.columns, episode.failing) == ("opened", 1.0, ("x",), 3)
    episode, change = walk(PASS, fail("x"), BROKEN)[-1]
    assert (change, episode.alarm, episode.broken) == ("opened", 2.0, True)


def test_one_window_is_enough_if_that_is_asked_for() -> None:
    """A persistence of one opens and closes with every window."""
    assert changes(fail("x"), PASS, fail("y"), persistence=1) == ["opened", "closed", "opened"]
