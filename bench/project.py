"""A small project with one service, and releases of it, each with a model and a configuration of its own.

A release's answer shows both: release n has a model that returns n and a configuration that adds 1000 n, so an
answer made by the model of one and the configuration of another cannot look like either.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood import release, testing
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.service import schema
from lastgood.settings import Settings

SERVICE = "toy"
FACTOR = 1000.0
BODY = b'{"x": 0.0}'
"""One request: the answer to it is `expected`."""

RUNTIME = '''
"""Adds what the model says, what the configuration says, and the number that is asked about."""

from typing import Any

import pydantic

from lastgood.serving import runtime


class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    x: float


class Runtime(runtime.Runtime):
    Request = Row

    def __init__(self, says: float) -> None:
        self._says = says

    @classmethod
    def load(cls, parts: Any, options: Any) -> "Runtime":
        return cls(float(parts["model"].read_text()) + float(options["adds"]))

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        return [{"probability": self._says + row.x} for row in rows]

    def warm_up(self) -> list[dict[str, Any]]:
        return [{"x": 0.0}]
'''

SERVICE_YAML = """\
schema: lastgood.service/v1
service: {service}
tier: real-time-api
owner: bench
parts: [model, config, environment]
traffic: {{port: {port}}}
serving: {{ready_timeout_s: 60}}
release: {{strategy: [], bake_s: 600}}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A registered bundle: what its answers must name, and what they must say."""

    bundle: str
    model: str
    config: str
    expected: float

    def made(self, body: Mapping[str, Any]) -> bool:
        """True if an answer comes from this release and from nothing else."""
        named = (body.get("bundle"), body.get("model"), body.get("config")) == (self.bundle, self.model, self.config)
        return named and body.get("predictions") == [{"probability": self.expected}]


def make(root: Path, *, registry: str = "") -> Settings:
    """A project in *root* with its home inside; real workers and a real Envoy, and MLflow if *registry* says so."""
    folder = root / "services" / SERVICE
    folder.mkdir(parents=True)
    (folder / "runtime.py").write_text(RUNTIME, "utf-8")
    (folder / schema.FILE).write_text(SERVICE_YAML.format(service=SERVICE, port=testing.free_port()), "utf-8")
    (root / "requirements.lock").write_text("toy==1\n", "utf-8")
    (root / "lastgood.toml").write_text(f'[layers]\nregistry = "{registry}"\n', "utf-8")
    return settings_.load(root, environ={})


def port(settings: Settings, service: str = SERVICE) -> int:
    """The port on which the proxy of the service listens."""
    return schema.load(settings.services / service).traffic.port


def build(ctx: release.Context, number: int) -> Release:
    """Freeze and register release *number*."""
    work = ctx.settings.home / "work" / str(number)
    work.mkdir(parents=True)
    (work / "model.json").write_text(str(number), "utf-8")
    frozen = schema.freeze(ctx.settings.services / SERVICE, work / "config", options={"adds": FACTOR * number})
    described = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    stored = {
        "model": ctx.store.put(work / "model.json"),
        "config": ctx.store.put(frozen),
        "environment": ctx.store.put_bytes(described, name=environment.FILE),
    }
    parts = [store.part(found, name=name, media_type="application/octet-stream", meta={}) for name, found in stored.items()]
    made = manifest.bundle_of(SERVICE, *parts)
    release.register(ctx, made, provenance={"number": number}, actor="bench", now=time.time(), untried=True)
    return Release(bundle=made.id, model=made.parts["model"].digest, config=made.parts["config"].digest, expected=number + FACTOR * number)
