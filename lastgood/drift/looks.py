"""When an open alarm is looked at, with which part of alpha, and on which rows.

First at the set times of `drift.decide.looks_s`, then repeatedly, with the distance of the last two of those, for as long as the
alarm is open. The set looks share all but LATER of alpha evenly; the j-th look after them has LATER / (j * (j + 1)) of it, so that
together they never spend more than alpha.

What does not belong here: the result of a look (`decision`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from lastgood.drift.judging import WindowReport
from lastgood.drift.verdict import LOSS
from lastgood.service.drift import Decide

LATER = 0.2
"""Share of alpha for all looks after the set ones."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledLook:
    """One time at which an alarm is decided. `number` counts from 1, `of` all set and later looks so far; `until` is Unix seconds."""

    alarm: float
    number: int
    of: int
    until: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """What failed while an alarm was open: these columns, over this many windows."""

    columns: tuple[str, ...]
    windows: int


def due(newest: WindowReport, decided: Mapping[int, str], rules: Decide, *, now: float) -> ScheduledLook | None:
    """The look at the alarm that is open after the window *newest*; None if none is due, or its number is among those *decided*.

    An alarm decided as `keep` waits for the windows that close it: it is looked at again if a window fails against that state too.
    """
    alarm = newest.episode.alarm
    if alarm is None:
        return None
    if newest.episode.broken and not decided:
        return ScheduledLook(alarm=alarm, number=1, of=len(rules.looks_s), until=newest.end)
    number = _passed(rules, now - alarm - rules.label_delay_s)
    settled = bool(decided) and decided[max(decided)] == "keep" and not newest.episode.failing
    if number == 0 or number in decided or settled:
        return None
    return ScheduledLook(alarm=alarm, number=number, of=max(number, len(rules.looks_s)), until=alarm + _after(rules, number))


def _passed(rules: Decide, seconds: float) -> int:
    """The number of the newest look due this many seconds after the alarm began; 0 before the first."""
    beyond = seconds - rules.looks_s[-1]
    if beyond < 0:
        return sum(after <= seconds for after in rules.looks_s)
    return len(rules.looks_s) + math.floor(beyond / _apart(rules))


def _after(rules: Decide, number: int) -> float:
    """Seconds after the alarm began at which look *number* is due."""
    later = max(0, number - len(rules.looks_s))
    return rules.looks_s[number - later - 1] + later * _apart(rules)


def _apart(rules: Decide) -> float:
    """Seconds between two looks after the set ones."""
    return rules.looks_s[-1] - (rules.looks_s[-2] if len(rules.looks_s) > 1 else 0.0)


def alpha(look: ScheduledLook, rules: Decide) -> float:
    """The part of alpha that *look* may spend."""
    later = look.number - len(rules.looks_s)
    if later <= 0:
        return rules.alpha * (1 - LATER) / len(rules.looks_s)
    return rules.alpha * LATER / (later * (later + 1))


def since(look: ScheduledLook, rules: Decide) -> float:
    """Start of the rows for *look*: the alarm, or the span of the last set look before its end, because a log is not kept for years."""
    return max(look.alarm, look.until - rules.looks_s[-1])


def drifted(found: Iterable[WindowReport], look: ScheduledLook) -> Drifted:
    """What failed in the windows *found* of the alarm, up to *look*."""
    inside = [one for one in found if one.end > look.alarm and one.begin < look.until and one.verdict["outcome"] in ("fail", "broken")]
    names = {
        column["name"]
        for one in inside
        for column in one.verdict["columns"]
        if column["outcome"] in ("fail", "broken") and column["name"] != LOSS
    }
    return Drifted(columns=tuple(sorted(names)), windows=len(inside))
