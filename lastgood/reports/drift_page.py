"""One page about a backtest of the drift watch: what it would have reported and done, with a plot of every column over time.

What does not belong here: the results (`drift.backtest`), how the plots look (`drift_plots`, `figure`).
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.reports import drift_plots, figure
from lastgood.system import files, text

MOST_COLUMNS = 12
"""Number of columns plotted over time: those that failed most often, and the loss."""

_STYLE = "body{font:15px/1.5 sans-serif;max-width:760px;margin:2em auto;color:#222}table{border-collapse:collapse}td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top}"


def write(found: Mapping[str, Any], out: Path, *, service: str, bundle: str) -> Path:
    """Write the page about a backtest, as JSON, to *out* and return *out*. Raises Unavailable, or UsageError without the extra `report`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, page(found, service=service, bundle=bundle), kept="fast")
    except OSError as error:
        raise errors.Unavailable(f"cannot write {out}: {error}; name another file with --report") from error
    return out


def page(found: Mapping[str, Any], *, service: str, bundle: str) -> str:
    """The page as text, self-contained; text that comes from people or bundles is escaped."""
    windows = found["windows"]
    title = html.escape(f"Drift of {service}: what bundle {bundle} would have come to")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found["outcomes"].items()))
    span = f"{text.moment(found['since'])} to {text.moment(found['until'])}"
    head = f"{found['rows']:,} rows in {len(windows)} windows, {span}: {counts}; {found['alarms']} alarms"
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>",
            f"<h1>{title}</h1><p>{html.escape(head)}</p>",
            *_table("Alarms", ("from", "change", "why"), _changes(windows)),
            *_table("Decisions", ("at", "look", "outcome", "why"), _decisions(found["decisions"])),
            "<h2>Every column over time</h2><p>Dashed: usual at most. Shaded: an alarm was open.</p>",
            *_pictures(windows),
            "</html>",
        ]
    )


def _changes(windows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(text.moment(one["begin"]), one["change"], one["verdict"]["why"]) for one in windows if one["change"]]


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(text.moment(one["look"]["until"]), str(one["look"]["number"]), one["outcome"], one["why"]) for one in decisions]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"<h2>{title}</h2>"
    if not rows:
        yield "<p>None.</p>"
        return
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    yield f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{cells}</table>"


def _pictures(windows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    alarms = _alarms(windows)
    for place, column in enumerate(_columns(windows)):
        drawn = drift_plots.over_time(windows, column=column, alarms=alarms)
        yield figure.svg(drawn, name=f"column-{place}", title=f"{column} over time")


def _columns(windows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that have a distance, those that failed most often first."""
    failed: dict[str, int] = {}
    for one in windows:
        for column in one["verdict"]["columns"]:
            if column["distance"] is not None:
                failed[column["name"]] = failed.get(column["name"], 0) + (column["outcome"] in ("fail", "broken"))
    return sorted(failed, key=lambda name: (-failed[name], name))[:MOST_COLUMNS]


def _alarms(windows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The periods during which an alarm was open."""
    found: list[tuple[float, float]] = []
    for one in windows:
        if one["change"] == "opened":
            found.append((one["alarm"], one["end"]))
        elif found and one["alarm"] == found[-1][0]:
            found[-1] = (found[-1][0], one["end"])
    return found
