"""The year of flights at speed: each month served by the bundle that was trained for it, every day looked at, every alarm decided.

The decisions are pinned, for they are what the watch is for. LASTGOOD_TEST_BUDGET=4 lives through every month and every fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import drift_year

pytestmark = pytest.mark.timeout(300)

UTC: dict[str, Any] = {"clock": "utc"}
SOME = [
    pytest.param(7, {}, {"no alarm"}, id="July, healthy: the bundle behind would be far worse"),
    pytest.param(6, UTC, {"roll_back"}, id="June, departures in UTC: going back cures it"),
    pytest.param(9, {"change": drift_year.weather_gone}, {"retrain", "keep", "ask"}, id="September, no weather: going back cures nothing"),
]
REST = [
    *(
        pytest.param(month, {}, {"no alarm", "keep", "retrain"}, id=f"month {month}, healthy: never rolled back")
        for month in (4, 5, 6, 8, 9, 10, 11, 12)
    ),
    pytest.param(9, UTC, {"roll_back"}, id="September, UTC"),
    pytest.param(11, UTC, {"roll_back"}, id="November, UTC"),
    pytest.param(6, {"change": drift_year.weather_late}, {"keep", "retrain"}, id="June, weather of the day before: both suffer alike"),
    pytest.param(9, {"change": drift_year.celsius}, {"roll_back"}, id="September, Celsius: the bundle behind copes, labels say so"),
]
ALL = SOME + (REST if float(os.environ.get("LASTGOOD_TEST_BUDGET", "1")) >= 4 else [])


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve months, as the pipeline's first stage makes them."""
    return drift_year.prepared(tmp_path_factory.mktemp("months"))


@pytest.mark.parametrize(("month", "fault", "expected"), ALL)
def test_what_the_alarms_of_a_month_come_to(
    month: int, fault: dict[str, Callable[..., Any]], expected: set[str], months: Path, tmp_path: Path
) -> None:
    """A rollback where the bundle behind is better on the very rows, and nowhere else."""
    lived = drift_year.live_through(drift_year.make(tmp_path / "project"), months, month, **fault)
    assert lived.outcome in expected, [(one.outcome, one.why) for one in lived.decisions]
    if "roll_back" in expected:
        assert lived.behind < lived.stable
        assert lived.alarm_day is not None
        assert lived.alarm_day <= 4
