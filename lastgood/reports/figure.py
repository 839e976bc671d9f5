"""The common style of all plots, and their export: matplotlib settings, SVG for a page, PNG for other uses.

What does not belong here: what a plot shows (`plots`).
"""

from __future__ import annotations

import contextlib
import html
import io
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lastgood import errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STABLE, CANDIDATE, OTHER, GOOD, BAD, GREY, INK = "#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#6b6b6b", "#222222"
"""The colours of Okabe and Ito."""

WIDTH_IN = 7.6
"""Inches; at 100 dots per inch it fits a page 760 pixels wide and stays legible at 700."""
DPI = 110

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.1,
}

_LOCK = threading.RLock()
"""matplotlib's settings are global to the process, so only one plot is drawn at a time."""


def png(figure: Figure) -> bytes:
    """The figure as a PNG image."""
    out = io.BytesIO()
    with _LOCK, _settings():
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as an `<svg>` element for an HTML page: it refers to nothing outside itself, and its ids begin with *name*.

    *title* describes it for readers who cannot see it. It scales with the available width.
    """
    out = io.StringIO()
    with _LOCK, _settings(salt=name):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg role="img" aria-label="{html.escape(title)}" \1>', text, count=1)
    return re.sub(r"\n\s*", "\n", text).strip()


def title_of(figure: Figure) -> str:
    """The first title in the figure, as plain text."""
    return str(figure.axes[0].get_title(loc="left")).replace("\\$", "$")


def _settings(*, salt: str = "lastgood") -> contextlib.AbstractContextManager[None]:
    import matplotlib as mpl

    rc: Any = {**_RC, "svg.hashsalt": salt}  # its keys are literals for the type checker
    return mpl.rc_context(rc)


@contextlib.contextmanager
def drawing(height_in: float, *, rows: int | None = None) -> Iterator[tuple[Figure, Any]]:
    """A new figure of this height in inches with one panel (or a list of *rows*), under our settings."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.UsageError("pictures need the extra 'report'; install it: pip install 'lastgood[report]'") from error
    with _LOCK, _settings():
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        panels = figure.subplots(rows or 1, 1, sharex=True, squeeze=False)[:, 0]
        yield figure, list(panels) if rows else panels[0]
