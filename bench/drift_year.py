"""A year of real flights as a service would see it: bundles trained on two months each, the log of their answers, and a virtual clock.

Month by month the stable bundle is trained on the two months before and the rollback target on the two before those, as in a
team that trains monthly. A fault may be added to the stable bundle's own code, or to live traffic.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.drift import decision as drift_decision
from lastgood.drift import reference
from lastgood.drift import watch as drift_watch
from lastgood.release import advance
from lastgood.service import schema
from lastgood.serving import inference_log, segments
from lastgood.settings import Settings
from lastgood.system import plain
from services.flights import drift, features, prepare, tables, train

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "flights"
DAY_S = 86_400.0
LANDED_S = 6 * 3600.0
Change = Callable[[pa.Table], pa.Table]
"""A fault's effect on live flights."""


def prepared(out: Path) -> Path:
    """The twelve monthly files, made by the pipeline's first stage."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))["prepare"]
    prepare.prepare(**params, out=out)
    return out


def make(root: Path) -> Settings:
    """A project in *root* with the flights' own code and settings, without layers."""
    folder = root / "services" / SERVICE
    folder.mkdir(parents=True)
    for name in ("runtime.py", "model.py", "features.py"):
        (folder / name).write_bytes((ROOT / "services" / SERVICE / name).read_bytes())
    said = yaml.safe_load((ROOT / "services" / SERVICE / schema.FILE).read_text("utf-8"))
    said["release"] = {"strategy": [], "bake_s": 2}
    said["evaluation"], said["gates"] = {}, {}
    (folder / schema.FILE).write_text(yaml.safe_dump(said), "utf-8")
    (root / "requirements.lock").write_text("flights==1\n", "utf-8")
    (root / "lastgood.toml").write_text('[layers]\ninfrastructure = ""\ntraffic = ""\nregistry = ""\n', "utf-8")
    return settings_.load(root, environ={})


def flights(months: Path, *which: int) -> pa.Table:
    """The labelled flights of these months, in order of departure."""
    whole = pa.concat_tables(pq.read_table(tables.month_file(months, month)) for month in which)
    return whole.filter(pa.compute.is_valid(whole["late"])).sort_by(drift.TIME)


def build(ctx: release.Context, months: Path, *, trained: tuple[int, ...], later: int, clock: str = "local", now: float) -> str:
    """Register a bundle trained on the months *trained*; live flights are compared with those of month *later*."""
    work = ctx.settings.home / "work" / f"{'-'.join(map(str, trained))}-{later}-{clock}"
    work.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))["train"]
    fitted = train.fit(flights(months, *trained).to_pandas(), params)
    beside = flights(months, later)
    reference.write(drift.reference(beside), work / "data" / reference.FILE, at=drift.TIME)
    saved = train.save(fitted, work / "model")
    made = drift.made_features(beside.to_pandas(), categories=fitted.categories)
    reference.write(made, saved / reference.FEATURES, at=drift.TIME)
    frozen = schema.freeze(ctx.settings.services / SERVICE, work / "config", options={"departure_clock": clock})
    described = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    stored = {
        "data": ctx.store.put(work / "data", allow=store.DATA_FORMATS),
        "model": ctx.store.put(saved, allow=store.MODEL_FORMATS),
        "config": ctx.store.put(frozen, allow=store.CONFIG_FORMATS),
        "environment": ctx.store.put_bytes(described, name=environment.FILE),
    }
    parts = [store.part(found, name=name, media_type="application/octet-stream", meta={}) for name, found in stored.items()]
    bundle = manifest.bundle_of(SERVICE, *parts)
    release.register(ctx, bundle, provenance={"trained": list(trained)}, actor="bench", now=now, untried=True)
    return bundle.id


def promote(ctx: release.Context, digest: str, *, at: float) -> None:
    """Make *digest* stable at Unix time *at*."""
    release.propose(ctx.with_clock(lambda: at), SERVICE, digest, release.Request(actor="bench", reason="trained"))
    advance.advance(ctx.with_clock(lambda: at), SERVICE, ready={digest}, actor="bench")
    advance.advance(ctx.with_clock(lambda: at + 3), SERVICE, ready={digest}, actor="bench")


def answer(ctx: release.Context, digest: str, table: pa.Table) -> None:
    """Write the bundle's answers to the flights of *table* to the log, at their departure, with their outcomes."""
    from lastgood.drift import bundle_reference as drift_reference

    loaded = drift_reference.load(ctx.settings, ctx.ledger.bundle(digest))
    probability = _forecast(loaded.runtime, table)
    at = table[drift.TIME].cast(pa.timestamp("us", tz="UTC"))
    count = table.num_rows
    ids = [f"{digest[7:15]}-{moment}-{number}" for number, moment in enumerate(at.cast(pa.int64()).to_pylist())]
    request = {f"{inference_log.FEATURE}{name}": column for name, column in _fields(table).items()}
    predictions = pa.table(
        {
            "at": at, "request_id": ids, "row": pa.array([0] * count, pa.int32()), "bundle": [digest] * count, "arm": ["stable"] * count,
            "shadow": [False] * count, "latency_us": pa.array([900] * count, pa.int64()), "probability": probability,
            "output": [json.dumps({"probability": float(one)}) for one in probability], **request,
        }
    )  # fmt: skip
    late = table["late"].cast(pa.float64())
    told = pa.array((np.asarray(at.cast(pa.int64())) + int(LANDED_S * 1e6)), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    feedback = pa.table({"at": told, "request_id": ids, "row": pa.array([0] * count, pa.int32()), "label": late, "outcome": ["{}"] * count})
    folder = ctx.settings.inference(SERVICE)
    for log, rows in ((inference_log.PREDICTIONS, predictions), (inference_log.FEEDBACK, feedback)):
        _write(folder / log, rows, writer=f"bench-{digest[7:15]}")


def _fields(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    asked = drift.reference(table)
    return {name: asked[name] for name in features.FIELDS}


def _forecast(runtime: Any, table: pa.Table) -> np.ndarray:
    columns = features.columns_of(table.to_pandas())
    found: np.ndarray = runtime._model.probability(columns, departure_clock=runtime._options.departure_clock)
    return found


def _write(folder: Path, rows: pa.Table, *, writer: str) -> None:
    """One segment for each day, dated by it."""
    days = np.asarray(rows["at"].cast(pa.int64())) // int(DAY_S * 1e6)
    for number, day in enumerate(np.unique(days), start=1):
        name, place = segments.segment_name(writer, number, number), folder / segments.day_name(float(day) * DAY_S)
        segments.write_segment(rows.filter(pa.array(days == day)), place, name=name)
        os.utime(place / name, (float(day + 1) * DAY_S,) * 2)


def first_of(month: int) -> float:
    """Unix seconds of the beginning of a month of 2013 (13 is the next January), on the airports' clock."""
    year, month = (2013, month) if month <= 12 else (2014, month - 12)
    return datetime.datetime(year, month, 1, 5, tzinfo=datetime.UTC).timestamp()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """The result of one month: when the alarm first opened (days into it), the decisions by look, and both bundles' scores."""

    month: int
    alarm_day: float | None
    decisions: tuple[drift_decision.DriftDecision, ...]
    stable: float
    behind: float

    @property
    def outcome(self) -> str:
        """The final decision of the month: what a person would have found done."""
        return next(
            (one.outcome for one in self.decisions if one.outcome == "roll_back"),
            self.decisions[-1].outcome if self.decisions else "no alarm",
        )


def live_through(settings: Settings, months: Path, month: int, *, clock: str = "local", change: Change | None = None) -> Month:
    """Serve one month with the bundle trained for it, check every day, and decide every alarm as it becomes due."""
    start, end = first_of(month), first_of(month + 1)
    came = flights(months, month)
    came = change(came) if change else came
    with release.open_context(settings) as ctx:
        behind = build(ctx, months, trained=(month - 3, month - 2), later=month - 1, now=start - 3000)
        stable = build(ctx, months, trained=(month - 2, month - 1), later=month - 1, clock=clock, now=start - 2000)
        promote(ctx, behind, at=start - 1000)
        promote(ctx, stable, at=start)
        answer(ctx, stable, came)
        what = drift_watch.watch_of_service(ctx, SERVICE)
        assert what is not None
        decisions: list[drift_decision.DriftDecision] = []
        alarm: float | None = None
        for day in range(1, int((end - start) / DAY_S) + 1):
            now = start + day * DAY_S + 60
            for one in drift_watch.evaluate_next_window(ctx, what, now=now):
                alarm = one.end if alarm is None and one.change == "opened" else alarm
            look = drift_decision.due(ctx, what, now=now)
            if look is not None:
                decisions.append(drift_decision.decide(ctx, what, look))
                # Recorded but not carried out: the month continues to its end, to see what was right.
                report = plain.mended(decisions[-1].to_json())
                ctx.ledger.evaluate(what.bundle, kind=drift_decision.KIND, report=report, actor="bench", now=now)
        scores = [_brier(ctx, digest, came) for digest in (stable, behind)]
    day_of_alarm = None if alarm is None else (alarm - start) / DAY_S
    return Month(month=month, alarm_day=day_of_alarm, decisions=tuple(decisions), stable=scores[0], behind=scores[1])


def data_set_drifts(months: Path, month: int, *, change: Change | None = None) -> bool:
    """Whether Evidently's unmodified preset calls the first week of a month drifted, compared with the month before."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    came = flights(months, month)
    came = change(came) if change else came
    first = came.filter(pa.compute.less(came[drift.TIME].cast(pa.int64()), int((first_of(month) + 7 * DAY_S) * 1e6)))
    names = [name for name in features.FIELDS if name != drift.TIME]
    # A column without a single value would end Evidently with an error; it is as drifted as possible.
    usable = [name for name in names if first[name].null_count < first.num_rows]
    categories = [name for name in usable if name in features.CATEGORICAL]
    definition = DataDefinition(numerical_columns=[name for name in usable if name not in categories], categorical_columns=categories)
    tables_ = (first, flights(months, month - 1))
    new, old = (Dataset.from_pandas(table.select(usable).to_pandas(), data_definition=definition) for table in tables_)
    found = Report([DataDriftPreset()]).run(current_data=new, reference_data=old).dict()["metrics"][0]["value"]
    return bool((found["count"] + len(names) - len(usable)) / len(names) >= 0.5)


def _brier(ctx: release.Context, digest: str, table: pa.Table) -> float:
    from lastgood.drift import bundle_reference as drift_reference

    loaded = drift_reference.load(ctx.settings, ctx.ledger.bundle(digest))
    return float(np.mean((_forecast(loaded.runtime, table) - table["late"].to_numpy(zero_copy_only=False).astype(float)) ** 2))


def weather_late(table: pa.Table) -> pa.Table:
    """The weather of the day before: a stale feed."""
    return _replaced(table, lambda frame: {name: frame[name].shift(1000).to_numpy() for name in prepare.WEATHER})


def weather_gone(table: pa.Table) -> pa.Table:
    """Zeros for the weather, and no pressure: a zero pressure would be refused."""
    gone = {**dict.fromkeys(prepare.WEATHER, 0.0), "pressure": np.nan}
    return _replaced(table, lambda frame: {name: np.full(len(frame), value) for name, value in gone.items()})


def celsius(table: pa.Table) -> pa.Table:
    """Another unit of temperature."""
    return _replaced(table, lambda frame: {"temp": (frame["temp"].to_numpy() - 32) / 1.8})


def _replaced(table: pa.Table, columns: Callable[[pd.DataFrame], Mapping[str, Any]]) -> pa.Table:
    for name, values in columns(table.to_pandas()).items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64(), from_pandas=True))
    return table
