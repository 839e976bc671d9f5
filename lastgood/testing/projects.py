"""A small project with one service, and bundles of it, made of real files in a real store and ledger."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.model_retirement import records
from lastgood.release import advance
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import clock

RUNTIME = '''
"""Answers every number with a constant of its bundle plus that number."""

from typing import Any

import pydantic

from lastgood.serving import runtime


class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    x: float


class Runtime(runtime.Runtime):
    Request = Row

    def __init__(self, answer: float) -> None:
        self._answer = answer

    @classmethod
    def load(cls, parts: Any, options: Any) -> "Runtime":
        return cls(float(parts["model"].read_text()) + float(options.get("shift", 0)))

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        return [{"probability": self._answer + row.x} for row in rows]

    def warm_up(self) -> list[dict[str, Any]]:
        return [{"x": 0.0}]
'''


def project(root: Path, *, port: int = 8399, service: str = "toy", extra: str = "", layers: bool = False) -> Settings:
    """Settings of a project in *root* with one service. Without *layers* there is only a ledger and a store."""
    folder = root / "services" / service
    folder.mkdir(parents=True)
    (folder / "runtime.py").write_text(RUNTIME)
    text = f"""\
        schema: lastgood.service/v1
        service: {service}
        tier: real-time-api
        owner: tests
        parts: [model, config, environment]
        traffic: {{port: {port}}}
        serving: {{ready_timeout_s: 20}}
        release: {{strategy: [], bake_s: 2}}
        """
    (folder / schema.FILE).write_text(textwrap.dedent(text) + extra)
    (root / "requirements.lock").write_text("toy==1\n")
    off = "" if layers else '[layers]\ninfrastructure = ""\ntraffic = ""\n'
    (root / "lastgood.toml").write_text(off + ('[layers]\nregistry = ""\n' if layers else 'registry = ""\n'))
    return settings_.load(root, environ={})


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[release.Context]:
    """The project's ledger and store."""
    with release.open_context(settings) as ctx:
        yield ctx


def build(
    ctx: release.Context,
    answer: float,
    *,
    service: str = "toy",
    now: float = 1000.0,
    llms: Sequence[Mapping[str, Any]] = (),
    untried: bool = True,
) -> str:
    """Register a bundle whose model answers *answer* and that names the hosted models *llms*; returns its id."""
    work = ctx.settings.home / "work" / str(answer)
    work.mkdir(parents=True, exist_ok=True)
    (work / "model.json").write_text(str(answer))
    frozen = work / "config"
    if not frozen.exists():
        schema.freeze(ctx.settings.services / service, frozen)
    env = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    meta = {"answer": answer, **({records.META: list(llms)} if llms else {})}
    parts = (
        store.part(ctx.store.put(work / "model.json"), name="model", media_type="application/json", meta=meta),
        store.part(ctx.store.put(frozen), name="config", media_type="application/vnd.lastgood.tree", meta={}),
        store.part(ctx.store.put_bytes(env, name="environment.json"), name="environment", media_type="application/json", meta={}),
    )
    made = manifest.bundle_of(service, *parts)
    release.register(ctx, made, provenance={"built": "by a test"}, actor="test", now=now, untried=untried)
    return made.id


def released(
    ctx: release.Context, *answers: float, service: str = "toy", llms: Mapping[float, Sequence[Mapping[str, Any]]] = MappingProxyType({})
) -> list[str]:
    """Build and release one bundle per answer, in order, each proven; returns their ids. *llms* are the hosted models by answer."""
    digests = []
    for answer in answers:
        digest = build(ctx, answer, service=service, llms=llms.get(answer, ()))
        release.propose(ctx, service, digest, release.Request(actor="test", reason="test"))
        advance.advance(ctx, service, ready={digest}, actor="test")
        advance.advance(ctx.with_clock(lambda: clock.now() + 5), service, ready={digest}, actor="test")
        digests.append(digest)
    return digests
