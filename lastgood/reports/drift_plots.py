"""Drift plots: how far each column is from the reference, and what is usual for it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.reports import figure as report_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def by_feature(columns: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of the distances of *columns* (from a verdict, as JSON), the worst on top; a tick marks each threshold."""
    with report_figure.drawing(0.8 + 0.24 * len(columns)) as (figure, axes):
        places = range(len(columns))[::-1]
        colours = [report_figure.BAD if column["outcome"] in ("fail", "broken") else report_figure.STABLE for column in columns]
        axes.barh(places, [column["distance"] for column in columns], color=colours, height=0.7)
        for place, column in zip(places, columns, strict=True):
            if column["threshold"] is not None:
                axes.plot([column["threshold"]] * 2, [place - 0.42, place + 0.42], color=report_figure.INK, linewidth=1.5)
        axes.set_yticks(places, [f"{column['name']}{' *' if column['outcome'] in ('fail', 'broken') else ''}" for column in columns])
        axes.set(xlabel="distance (standard deviations, or Jensen-Shannon); line: usual at most; *: drifted")
    return figure


def over_time(windows: Sequence[Mapping[str, Any]], *, column: str, alarms: Sequence[tuple[float, float]]) -> Figure:
    """A column's value in each of *windows* (as JSON) against its usual maximum; *alarms* (start and end in Unix seconds) are shaded."""
    points = [(one["begin"], found) for one in windows for found in one["verdict"]["columns"] if found["name"] == column]
    known = [(_day(at), found["distance"], found["threshold"]) for at, found in points if found["distance"] is not None]
    with report_figure.drawing(1.9) as (figure, axes):
        for since, until in alarms:
            axes.axvspan(_day(since), _day(until), color=report_figure.CANDIDATE, alpha=0.25, linewidth=0)
        axes.plot([at for at, _, _ in known], [value for _, value, _ in known], color=report_figure.STABLE, linewidth=1.0)
        limits = [(at, limit) for at, _, limit in known if limit is not None]
        axes.plot([at for at, _ in limits], [limit for _, limit in limits], color=report_figure.INK, linewidth=0.9, linestyle="--")
        axes.set_title(column)
        axes.set(ylim=(0, None), ylabel="distance" if not known else "")
        figure.autofmt_xdate()
    return figure


def _day(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC)
