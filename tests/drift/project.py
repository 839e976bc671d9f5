"""A small service that is watched for drift: its bundles, their reference, and a log of what they answered, written as workers write it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydantic

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.drift import reference
from lastgood.release import advance
from lastgood.service import schema
from lastgood.serving import feedback, inference_log, segments
from lastgood.settings import Settings

SERVICE = "toy"
HOUR_S = 3600.0
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
"""When the first bundle becomes stable; windows are hours."""

RUNTIME = '''
"""Says how likely it is that y is 1: by the size of x, bent by the bundle's own model. Its feature is x in the unit that options say."""

from typing import Any

import math
import pydantic

from lastgood.serving import runtime


class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    x: float | None
    kind: str


class Runtime(runtime.Runtime):
    Request = Row

    def __init__(self, bias: float, unit: float) -> None:
        self._bias, self._unit = bias, unit

    @classmethod
    def load(cls, parts: Any, options: Any) -> "Runtime":
        return cls(float((parts["model"] / "model.json").read_text()), float(options.get("unit", 1.0)))

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        return [{"probability": 1 / (1 + math.exp(-(self._unit * (row.x or 0.0) + self._bias)))} for row in rows]

    def features(self, rows: Any) -> dict[str, list[float]]:
        return {"x": [math.nan if row.x is None else self._unit * row.x for row in rows]}

    def warm_up(self) -> list[dict[str, Any]]:
        return [{"x": 0.0, "kind": "a"}]
'''


class Row(pydantic.BaseModel):
    """As in RUNTIME."""

    x: float | None
    kind: str


def make(root: Path, *, drift: str = "", decide: str = "", delay_s: float = 0.0) -> Settings:
    """A project in *root* without layers; *drift* are further lines of its group, *decide* a pair of that; labels come after *delay_s*."""
    folder = root / "services" / SERVICE
    folder.mkdir(parents=True)
    (folder / "runtime.py").write_text(RUNTIME)
    text = """\
        schema: lastgood.service/v1
        service: toy
        tier: real-time-api
        owner: tests
        parts: [data, model, config, environment]
        traffic: {port: 8399}
        release: {strategy: [], bake_s: 2}
        drift:
          window_s: 3600
          persistence: 2
          decide: {looks_s: [7200, 21600], cluster_s: 600, margin: 0.002, min_rows: 50, label_delay_s: DELAY DECIDE}
        """
    (folder / schema.FILE).write_text(
        textwrap.dedent(text).replace("DELAY", str(delay_s)).replace("DECIDE", f", {decide}" if decide else "")
        + textwrap.indent(textwrap.dedent(drift), "  ")
    )
    (root / "requirements.lock").write_text("toy==1\n")
    (root / "lastgood.toml").write_text('[layers]\ninfrastructure = ""\ntraffic = ""\nregistry = ""\n')
    return settings_.load(root, environ={})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What comes in: `x` is drawn around `mean`, and y is 1 as often as x says, plus `bias`."""

    mean: float = 0.0
    bias: float = 0.0
    kinds: Sequence[str] = ("a", "b")

    def rows(self, count: int, *, seed: int) -> tuple[list[Row], list[float]]:
        """Rows, and what really happened."""
        draw = np.random.default_rng(seed)
        x = draw.normal(self.mean, 1.0, count)
        y = draw.random(count) < 1 / (1 + np.exp(-(x + self.bias)))
        kinds = draw.choice(list(self.kinds), count)
        return [Row(x=float(a), kind=str(b)) for a, b in zip(x, kinds, strict=True)], [float(one) for one in y]


USUAL = World()


def build(ctx: release.Context, bias: float, *, world: World = USUAL, unit: float = 1.0) -> str:
    """Register a bundle whose model adds *bias*, made for *world*. Its code multiplies x by *unit*, which its training did not."""
    work = ctx.settings.home / "work" / f"{bias}-{unit}-{world.mean}"
    (work / "model").mkdir(parents=True)
    (work / "model" / "model.json").write_text(str(bias))
    rows, labels = world.rows(6000, seed=99)
    when = pa.array([START - 200 * HOUR_S + 108.0 * n for n in range(len(rows))], pa.float64())
    x = [row.x for row in rows]
    reference.write(
        pa.table({"when": when, "x": x, "kind": [row.kind for row in rows], "label": labels}), work / "data" / reference.FILE, at="when"
    )
    reference.write(pa.table({"when": when, "x": x}), work / "model" / reference.FEATURES, at="when")
    frozen = schema.freeze(ctx.settings.services / SERVICE, work / "config", options={"unit": unit})
    stored = {
        "data": ctx.store.put(work / "data", allow=store.DATA_FORMATS),
        "model": ctx.store.put(work / "model"),
        "config": ctx.store.put(frozen, allow=store.CONFIG_FORMATS),
        "environment": ctx.store.put_bytes(
            environment.encode(environment.describe(ctx.settings.project / "requirements.lock")), name=environment.FILE
        ),
    }
    parts = [store.part(found, name=name, media_type="application/octet-stream", meta={}) for name, found in stored.items()]
    made = manifest.bundle_of(SERVICE, *parts)
    release.register(ctx, made, provenance={}, actor="test", now=START - 10, untried=True)
    return made.id


def promote(ctx: release.Context, digest: str, *, at: float) -> None:
    """Make *digest* stable at Unix time *at*, proven three seconds later."""
    promote_service(ctx, SERVICE, digest, at=at)


def promote_service(ctx: release.Context, service: str, digest: str, *, at: float) -> None:
    """As `promote`, of another service."""
    release.propose(ctx.with_clock(lambda: at), service, digest, release.Request(actor="test", reason="test"))
    advance.advance(ctx.with_clock(lambda: at), service, ready={digest}, actor="test")
    advance.advance(ctx.with_clock(lambda: at + 3), service, ready={digest}, actor="test")


class Traffic:
    """Writes what a bundle answered into the log, as its worker would have, and what really happened."""

    def __init__(self, settings: Settings, bundle: str, *, bias: float = 0.0) -> None:
        self._folder = settings.inference(SERVICE)
        self._bundle = bundle
        self._bias = bias
        self._number = 0

    def hour(
        self,
        number: int,
        world: World = USUAL,
        *,
        rows: int = 120,
        labels: bool = True,
        shadow: bool = False,
        broken: str = "",
        arm: str = "stable",
        told_after_s: float = 1.0,
    ) -> None:
        """The *number*th hour after START. *broken* `x` loses the values of x."""
        asked, happened = world.rows(rows, seed=1000 + number)
        begin = START + number * HOUR_S
        answers, told = [], []
        asked = [Row(x=None, kind=row.kind) for row in asked] if broken == "x" else asked
        for place, (row, label) in enumerate(zip(asked, happened, strict=True)):
            self._number += 1
            at, request_id = begin + place * HOUR_S / rows, self._named(f"r{number}-{self._number}")
            probability = float(1 / (1 + np.exp(-((row.x or 0.0) + self._bias))))
            answers += inference_log.Answered(
                request_id=request_id, at=at, bundle=self._bundle, arm=arm, shadow=shadow, latency_us=900,
                rows=[row], outputs=[{"probability": probability}],
            ).as_rows()  # fmt: skip
            told.append(feedback.Feedback(request_id=request_id, y=label).as_row(at=at + told_after_s, label=label))
        self.write(inference_log.PREDICTIONS, inference_log.table_maker(Row)(answers), begin)
        if labels:
            self.write(inference_log.FEEDBACK, feedback.to_table(told), begin)

    def tell(self, labels: Mapping[str, float], *, at: float, writer: str) -> None:
        """Feedback on requests by name (without the bundle's tail), taken by *writer* at Unix time *at*."""
        rows = [feedback.Feedback(request_id=self._named(name), y=label).as_row(at=at, label=label) for name, label in labels.items()]
        folder = self._folder / inference_log.FEEDBACK / segments.day_name(at)
        segments.write_segment(feedback.to_table(rows), folder, name=segments.segment_name(writer, 1, 1))
        os.utime(folder / segments.segment_name(writer, 1, 1), (at, at))

    def _named(self, request: str) -> str:
        return f"{request}-{self._bundle[7:11]}"

    def write(self, log: str, table: pa.Table, at: float) -> Path:
        """One segment of its own."""
        self._number += 1
        folder, name = self._folder / log / segments.day_name(at), segments.segment_name("worker-1-abcd", self._number, self._number)
        segments.write_segment(table, folder, name=name)
        os.utime(folder / name, (at + HOUR_S / 2, at + HOUR_S / 2))
        return folder / name


def evidence(ctx: release.Context, digest: str, kind: str) -> list[dict[str, object]]:
    """What was written down about a bundle."""
    return [json.loads(json.dumps(dict(one.report))) for one in ctx.ledger.evaluations(digest) if one.kind == kind]
