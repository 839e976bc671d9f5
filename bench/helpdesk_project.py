"""Two releases of the helpdesk that differ in corpus, embedder, prompt and index, as the service is shipped: real code, real texts.

The answering code itself reports what an answer was made from, by what it opened.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import release, testing
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.index import catalog, embedders, snapshot
from lastgood.service import schema
from lastgood.settings import Settings
from services.helpdesk import build as building
from services.helpdesk import evaluate, models, pins, prepare, prompting

SERVICE = "helpdesk"
ROOT = Path(__file__).resolve().parent.parent
VARIANTS: Sequence[tuple[str, models.Name, str]] = (
    ("5.2", "wordllama", "{{ question }}"),
    ("6.0", "wordllama-128", "Django documentation: {{ question }}"),
)
"""Version of the documentation, embedder, and how a question is searched for."""
QUESTIONS = 200
ALLOWED = {
    "data": store.DATA_FORMATS,
    "model": store.MODEL_FORMATS,
    "prompt": store.CONFIG_FORMATS,
    "index": store.DATA_FORMATS,
    "config": store.CONFIG_FORMATS,
}

SERVICE_YAML = """\
schema: lastgood.service/v1
service: helpdesk
tier: rag
owner: bench
runtime: runtime:Runtime
code: [runtime.py, retrieval.py, pins.py]
parts: [data, model, prompt, index, config, environment]
traffic: {{port: {port}, timeout_s: 30, per_try_timeout_s: 15, idempotent: true}}
serving: {{ready_timeout_s: 180, cache_s: 3600}}
release: {{strategy: [], bake_s: 3600}}
options: {{retrieval: hybrid, find: 10, passages: 3}}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A registered bundle; `named` are the digests of its parts, `made_of` what the code that answers must have opened."""

    bundle: str
    named: Mapping[str, str]
    made_of: Mapping[str, str]

    def made(self, body: Mapping[str, Any]) -> bool:
        """True if an answer names this release alone, and was made of its index and its prompt."""
        named = body.get("bundle") == self.bundle and all(body.get(part) == digest for part, digest in self.named.items())
        return named and all(one.get("made_of") == self.made_of for one in body.get("predictions", [{}]))


def make(root: Path) -> Settings:
    """A project in *root* with the helpdesk's own code and prompt."""
    folder = root / "services" / SERVICE
    folder.mkdir(parents=True)
    for name in ("runtime.py", "retrieval.py", "pins.py"):
        shutil.copy(ROOT / "services" / SERVICE / name, folder / name)
    (folder / schema.FILE).write_text(SERVICE_YAML.format(port=testing.free_port()), "utf-8")
    (root / "requirements.lock").write_text("helpdesk==1\n", "utf-8")
    (root / "lastgood.toml").write_text('[layers]\nregistry = ""\nprompts = ""\n', "utf-8")
    return settings_.load(root, environ={})


def build(ctx: release.Context, number: int) -> Release:
    """Freeze and register variant *number*, with its replica in the engine."""
    version, embedder, query = VARIANTS[number]
    work = ctx.settings.home / "work" / str(number)
    work.mkdir(parents=True)
    prepare.slice_of(version, out=work / "data", project=ROOT)
    meta: dict[str, Mapping[str, Any]] = {"model": models.write(work / "model", embedder=embedder)}
    prompting.freeze(ROOT / "services" / SERVICE / "prompt", work / "prompt", replace={"query": query})
    loaded = embedders.load(work / "model" / pins.EMBEDDER)
    meta["index"] = building.build(work / "data", embedder=loaded, out=work / "index").snapshot.meta()
    schema.freeze(ctx.settings.services / SERVICE, work / "config")
    described = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    stored = {name: ctx.store.put(work / name, allow=allow) for name, allow in ALLOWED.items()}
    stored["environment"] = ctx.store.put_bytes(described, name=environment.FILE)
    engine = catalog.connect(ctx.settings)
    engine.build(ctx.store.path(stored["index"].digest))
    engine.close()
    kinds = {"index": snapshot.MEDIA_TYPE}
    parts = [
        store.part(found, name=name, media_type=kinds.get(name, "application/octet-stream"), meta=meta.get(name, {}))
        for name, found in stored.items()
    ]
    made = manifest.bundle_of(SERVICE, *parts)
    release.register(ctx, made, provenance={"number": number}, actor="bench", now=time.time(), untried=True)
    named = {part: made.parts[part].digest for part in ("model", "prompt", "index", "config")}
    made_of = {"index": str(meta["index"]["snapshot"]), "prompt": made.parts["prompt"].digest}
    return Release(bundle=made.id, named=named, made_of=made_of)


def bodies(settings: Settings) -> list[bytes]:
    """Questions as requests: headings of the first documentation, as its users ask them."""
    asked = evaluate.read_questions(settings.home / "work" / "0" / "data" / prepare.QUESTIONS)
    return [json.dumps({"question": one["question"]}).encode() for one in asked if one["kind"] == "title"][:QUESTIONS]
