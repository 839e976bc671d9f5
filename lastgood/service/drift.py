"""A service's declaration about drift: which windows are evaluated, what counts as an alarm, and how an alarm is decided.

What does not belong here: statistics and what follows from an alarm (`lastgood.drift`), reading the log (`drift.window`).
"""

from __future__ import annotations

from typing import Literal

import pydantic

DAY_S = 86_400.0
Score = Literal["brier", "log_loss", "absolute_error", "squared_error", "accuracy"]


class _Group(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Decide(_Group):
    """How the serving bundle is compared with its rollback target: both as a whole, on the same labelled rows."""

    score: Score = "brier"
    """What is compared, row by row."""
    margin: float = pydantic.Field(default=0.002, ge=0)
    """How much worse than the other the serving bundle must be, on the scale of the score, before it is rolled back."""
    alpha: float = pydantic.Field(default=0.05, gt=0, le=0.2)
    """Probability, over all looks of one alarm, that a bundle is rolled back that is not worse by the margin."""
    looks_s: tuple[float, ...] = tuple(days * DAY_S for days in (3, 5, 7, 14, 28))
    """Seconds of labelled rows after the start of the alarm at which it is looked at; alpha is split evenly over them."""
    cluster_s: float = pydantic.Field(default=DAY_S, gt=0, le=366 * DAY_S)
    """Rows within this many seconds depend on each other, and count as one observation."""
    min_rows: int = pydantic.Field(default=200, ge=2, le=1_000_000_000)
    """Fewest labelled rows for a look."""
    label_delay_s: float = pydantic.Field(default=0.0, ge=0, le=366 * DAY_S)
    """Seconds until a label has arrived; younger rows are left out, because only their quick labels are known."""
    retrain: Literal["ask", "build"] = "ask"
    """What follows when an alarm is decided as `retrain`. ask: a page. build: also the job `retrain`, whose bundle becomes a candidate."""

    @pydantic.field_validator("looks_s")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] <= 0:
            raise ValueError("looks_s must be one or more increasing numbers of seconds above 0, for example [259200, 604800]")
        return value


class Drift(_Group):
    """What is watched. Windows follow each other without gaps, from the moment a bundle became stable."""

    window_s: float = pydantic.Field(default=DAY_S, gt=0, le=366 * DAY_S)
    """Length of a window in seconds."""
    time: str = ""
    """Field of the request with the time of its row, where that is not the time of the request, as in a replay; a time with a zone."""
    quiet: tuple[int, ...] = ()
    """Hours of the day, UTC, in which no rows are expected: a window without rows within them does not count as broken data."""
    settle_s: float = pydantic.Field(default=5.0, ge=0, le=30 * DAY_S)
    """Seconds after the end of a window before it is read: the log is on disk then."""
    min_rows: int = pydantic.Field(default=100, ge=2, le=1_000_000_000)
    """A window of fewer rows is inconclusive."""
    max_rows: int = pydantic.Field(default=50_000, ge=1000, le=1_000_000)
    """Rows of a window that are kept in memory; of more, every second, fourth, ... request counts."""
    persistence: int = pydantic.Field(default=3, ge=1, le=1000)
    """Windows in a row that must fail before there is an alarm."""
    alpha: float = pydantic.Field(default=0.05, gt=0, le=0.5)
    """Probability that a window in which nothing changed fails, over all columns together."""
    min_effect: float = pydantic.Field(default=0.1, ge=0)
    """A distance below this never counts as drift, however significant: standard deviations, or Jensen-Shannon distance."""
    missing: float = pydantic.Field(default=0.05, gt=0, le=1)
    """A column whose missing or never-seen values are a larger share than in the reference by this much has drifted."""
    broken: float = pydantic.Field(default=0.95, gt=0, le=1)
    """A column is broken if so large a share of it is missing, never seen, or outside everything seen in the reference."""
    ignore: tuple[str, ...] = ()
    """Fields of the request that may change freely."""
    decide: Decide = Decide()

    @pydantic.field_validator("quiet")
    @classmethod
    def _hours(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= hour <= 23 for hour in value):
            raise ValueError("quiet must be hours of the day, 0 to 23 (UTC), for example [22, 23, 0, 1, 2, 3]")
        return tuple(sorted(set(value)))
