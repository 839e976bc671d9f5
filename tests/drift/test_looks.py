"""When an open alarm is looked at: at set times, and then again and again, with a bounded sum of alpha."""

from __future__ import annotations

import pytest

from lastgood.drift import alarm, looks
from lastgood.drift.judging import WindowReport
from lastgood.service.drift import DAY_S, Decide

RULES = Decide()


def open_since(begin: float, *, failing: int = 1, broken: bool = False) -> WindowReport:
    """A window after which an alarm is open."""
    episode = alarm.FailingRun(failing=failing, alarm=begin, broken=broken)
    return WindowReport(number=0, begin=begin, end=begin + DAY_S, seen=1, verdict={}, episode=episode, change="", alarm=begin)


@pytest.mark.parametrize(
    ("days", "number", "until"),
    [(2.9, None, 0), (3, 1, 3), (6.9, 2, 5), (28, 5, 28), (41.9, 5, 28), (42, 6, 42), (56, 7, 56), (365.25 * 5, 133, 28 + 128 * 14)],
)
def test_looks_never_end(days: float, number: int | None, until: float) -> None:
    """After the last of the set ones another comes as long after it as that came after the one before, for as long as the alarm is open."""
    found = looks.due(open_since(1000.0), {}, RULES, now=1000.0 + days * DAY_S)
    assert (found.number if found else None) == number
    if found is not None:
        assert found.until == 1000.0 + until * DAY_S
        assert looks.due(open_since(1000.0), {found.number: "ask"}, RULES, now=1000.0 + days * DAY_S) is None


def test_with_one_set_look_the_others_come_as_far_apart() -> None:
    """As far as it is from the beginning of the alarm."""
    rules = Decide(looks_s=(100.0,))
    found = [looks.due(open_since(0.0), {}, rules, now=now) for now in (99.0, 100.0, 199.0, 200.0, 1000.0)]
    assert [one.number if one else None for one in found] == [None, 1, 1, 2, 10]


def test_the_looks_of_a_hundred_years_spend_no_more_than_alpha() -> None:
    """Each has a part of its own."""
    spent = [looks.alpha(looks.ScheduledLook(alarm=0.0, number=number, of=number, until=0.0), RULES) for number in range(1, 3000)]
    assert sum(spent) <= RULES.alpha
    assert min(spent) > 0


def test_a_look_rests_on_as_much_as_the_last_set_one() -> None:
    """The log is not kept for years."""
    assert looks.since(looks.ScheduledLook(alarm=0.0, number=1, of=5, until=3 * DAY_S), RULES) == 0.0
    assert looks.since(looks.ScheduledLook(alarm=0.0, number=7, of=7, until=56 * DAY_S), RULES) == 28 * DAY_S


def test_what_was_kept_is_looked_at_again_only_if_it_fails_again() -> None:
    """The windows beside the kept state close the alarm meanwhile."""
    now = 1000.0 + 5 * DAY_S
    assert looks.due(open_since(1000.0, failing=0), {1: "keep"}, RULES, now=now) is None
    assert looks.due(open_since(1000.0, failing=1), {1: "keep"}, RULES, now=now) is not None
    assert looks.due(open_since(1000.0, failing=0), {1: "retrain"}, RULES, now=now) is not None
