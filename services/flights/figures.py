"""Plots of an evaluation, as PNG bytes (a few tens of kilobytes, so that they fit into run metadata)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration_png(late: np.ndarray, forecast: np.ndarray, *, bins: int = 10) -> bytes:
    """Forecast probability against the share that was late, in *bins* groups of about equal size."""
    order = np.argsort(forecast, kind="stable")
    groups = [group for group in np.array_split(order, bins) if group.size]
    said = [float(forecast[group].mean()) for group in groups]
    happened = [float(late[group].mean()) for group in groups]
    figure, axes = _square("forecast probability of being late", "share that was late", title="Calibration")
    axes.plot(said, happened, marker="o", linewidth=1.5, color="#1f6f8b")
    return _png(figure)


def roc_png(late: np.ndarray, forecast: np.ndarray) -> bytes:
    """False against true positive rate over all thresholds."""
    from sklearn.metrics import auc, roc_curve

    false_positive, true_positive, _ = roc_curve(late, forecast)
    area = auc(false_positive, true_positive)
    figure, axes = _square("false positive rate", "true positive rate", title=f"ROC, area {area:.3f}")
    axes.plot(false_positive, true_positive, linewidth=1.5, color="#1f6f8b")
    return _png(figure)


def _square(x: str, y: str, *, title: str) -> tuple[Figure, Axes]:
    # The object interface, not pyplot: pyplot keeps global state, which threads of an orchestrator share.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#999999")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=x, ylabel=y, title=title, aspect="equal")
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No software version or date in the file: equal plots have equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
