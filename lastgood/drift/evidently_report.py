"""Evidently's report comparing a time range with the bundle's reference, as one HTML file or as plain JSON.

Evidently compares rows as if they were independent; `lastgood.drift` determines what counts as an alarm, and its result is kept
alongside in the ledger.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors, release
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import reference
from lastgood.drift import watch as drift_watch
from lastgood.drift.reference import LABEL, PROBABILITY, Sample

if TYPE_CHECKING:
    import pandas as pd

    from lastgood.settings import Settings

KEPT = 60
"""Number of reports per service kept in the home folder; one takes some 4 MB."""

MOST = 20_000
"""Rows on either side: Evidently takes seconds for this many, and minutes for a million."""


def write(ctx: release.Context, what: drift_watch.DriftWatch, *, since: float, until: float, file: Path) -> None:
    """Write the report on *since* to *until* (Unix seconds) to *file*, as HTML, or as JSON if the file name ends that way.

    Raises NothingToDo if nothing was answered in that time, UsageError without Evidently.
    """
    save(run(ctx, what, since=since, until=until), file)


def save(snapshot: Any, file: Path) -> None:
    """Write the result of `run` to *file*, as HTML, or as JSON if the file name ends that way."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(snapshot.dict(), default=float), "utf-8")
    else:
        snapshot.save_html(str(file))


def archive(settings: Settings, what: drift_watch.DriftWatch, snapshot: Any, *, since: float, until: float) -> tuple[Path, Path]:
    """Write the report on *since* to *until* to the home folder, as HTML and as JSON; the newest KEPT of each service are kept."""
    folder = settings.home / "drift" / "reports" / what.service
    html, told = (folder / f"{int(since)}-{int(until)}{suffix}" for suffix in (".html", ".json"))
    for file in (html, told):
        save(snapshot, file)
    for old in sorted(folder.glob("*.html"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        for suffix in (".html", ".json"):
            old.with_suffix(suffix).unlink(missing_ok=True)
    return html, told


def run(ctx: release.Context, what: drift_watch.DriftWatch, *, since: float, until: float) -> Any:
    """Evidently's snapshot: drift of every column, and the quality of the answers where both sides have labels."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        from evidently import BinaryClassification, DataDefinition, Dataset, Report
        from evidently.presets import ClassificationPreset, DataDriftPreset
    except ImportError as error:
        raise errors.UsageError(f"the report needs Evidently, which is not installed ({error}); install 'lastgood[drift]'") from error
    old = drift_reference.of_bundle(ctx.settings, ctx.ledger.bundle(what.bundle))
    window = drift_watch.read(ctx, what, since=since, until=until, columns=old.columns, most=MOST)
    new = drift_reference.with_features(ctx.settings, ctx.ledger.bundle(what.bundle), old, window)
    if not new.rows:
        raise errors.NothingToDo(f"{what.service!r} answered no request in that time; choose another time with --since")
    names = _comparable(old, new, ignore=what.rules.ignore)
    quality = all(_is_binary(sample) for sample in (old, new))
    definition = DataDefinition(
        numerical_columns=[name for name in names if reference.is_numeric(old.columns[name]) and name != LABEL],
        categorical_columns=[name for name in names if not reference.is_numeric(old.columns[name]) or name == LABEL],
        classification=[BinaryClassification(target=LABEL, prediction_probas=PROBABILITY)] if quality else None,
    )
    current, before = (Dataset.from_pandas(_frame(one, names, quality=quality), data_definition=definition) for one in (new, old))
    return Report([DataDriftPreset(columns=names), *([ClassificationPreset(probas_threshold=0.5)] if quality else [])]).run(
        current_data=current, reference_data=before
    )


def values(snapshot: Any) -> dict[str, Any]:
    """The result of `run` as numbers: {"drifted": columns, "distances": by column, largest first, "quality": by name, given labels}."""
    found: dict[str, Any] = {"drifted": 0, "distances": {}, "quality": {}}
    for metric in snapshot.dict()["metrics"]:
        kind, value = str(metric["metric_name"]), metric["value"]
        if kind.startswith("DriftedColumnsCount"):
            found["drifted"] = int(value["count"])
        elif kind.startswith("ValueDrift"):
            found["distances"][metric["config"]["column"]] = float(value)
        elif isinstance(value, int | float):
            found["quality"][kind.partition("(")[0].lower()] = float(value)
    found["distances"] = dict(sorted(found["distances"].items(), key=lambda item: -item[1]))
    return found


def _comparable(old: Sample, new: Sample, *, ignore: tuple[str, ...]) -> list[str]:
    """The columns whose values are of the same kind on both sides: Evidently fails on any other."""
    from lastgood.drift import distances

    found = [name for name in old.columns if name in new.columns and name not in ignore]
    return [name for name in found if distances.value(old.columns[name], new.columns[name]) is not None]


def _is_binary(sample: Sample) -> bool:
    """Whether there are both probabilities and labels, with both labels 0 and 1."""
    import numpy as np

    if LABEL not in sample.columns or PROBABILITY not in sample.columns:
        return False
    known = sample.columns[LABEL][np.isfinite(sample.columns[LABEL])]
    return set(np.unique(known)) == {0.0, 1.0}


def _frame(sample: Sample, names: list[str], *, quality: bool) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame({name: sample.columns[name] for name in names})
    if not quality:
        return frame
    known = frame.dropna(subset=[LABEL, PROBABILITY])
    return known.assign(**{LABEL: known[LABEL].astype(int)})
