"""Pictures of drift: how far each column is from the reference, and what is usual for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.reports import figure as canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def by_feature(columns: Sequence[Mapping[str, Any]]) -> Figure:
    """Bars of the distances of *columns* (a verdict's, as JSON), the worst on top; a tick marks the threshold of each."""
    with canvas.drawing(0.8 + 0.24 * len(columns)) as (figure, axes):
        places = range(len(columns))[::-1]
        colours = [canvas.BAD if column["outcome"] in ("fail", "broken") else canvas.STABLE for column in columns]
        axes.barh(places, [column["distance"] for column in columns], color=colours, height=0.7)
        for place, column in zip(places, columns, strict=True):
            if column["threshold"] is not None:
                axes.plot([column["threshold"]] * 2, [place - 0.42, place + 0.42], color=canvas.INK, linewidth=1.5)
        axes.set_yticks(places, [f"{column['name']}{' *' if column['outcome'] in ('fail', 'broken') else ''}" for column in columns])
        axes.set(xlabel="distance (standard deviations, or Jensen-Shannon); line: usual at most; *: drifted")
    return figure
