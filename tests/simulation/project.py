"""The services that worlds are made of: one configuration per kind of release, with bundles to release, in a real store."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest, store
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.simulation.traffic import SLOW_MS

SERVICE = "toy"
BUNDLES = 6
"""Bundles of each configuration."""

_RECOVERY = {"within_s": 240, "min_samples": 50}
_LATENCY = {"metric": "latency_p99", "max_ms": SLOW_MS}
_SCORE = {"metric": "score", "score": "brier", "margin": 0.03, "block_s": 20}

CONFIGS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "canary": {
            "release": {
                "strategy": [
                    {"phase": "canary", "weight_pct": 10, "min_s": 60},
                    {"phase": "canary", "weight_pct": 50, "min_s": 60},
                ],
                "bake_s": 180,
                "recovery": _RECOVERY,
            },
        },
        "shadow": {
            "release": {
                "strategy": [
                    {"phase": "shadow", "mirror_pct": 50, "min_s": 60},
                    {"phase": "canary", "weight_pct": 20, "min_s": 60, "max_s": 2400},
                ],
                "bake_s": 240,
                "recovery": _RECOVERY,
            },
            "gates": {
                "latency": _LATENCY,
                "answers": {"metric": "agreement", "min": 0.9},
                "quality": {**_SCORE, "kind": "guardrail", "limit": 0.25, "during": ["shadow"]},
            },
        },
        "high-stakes": {
            "release": {
                "strategy": [
                    {"phase": "shadow", "mirror_pct": 50, "min_s": 60, "max_s": 1800},
                    {"phase": "canary", "weight_pct": 25, "min_s": 90, "max_s": 2400},
                    {"phase": "approval", "max_s": 1800},
                ],
                "bake_s": 240,
                "recovery": {"within_s": 180, "min_samples": 20},
            },
            "gates": {
                "latency": {**_LATENCY, "too_few": "ask"},
                "quality": {**_SCORE, "kind": "signal", "resume": "person"},
                "search": {"metric": "downstream", "url": "http://127.0.0.1:1/health", "persistence": 2},
            },
        },
        "watched": {
            "release": {
                "strategy": [{"phase": "canary", "weight_pct": 25, "min_s": 60, "max_s": 1500}],
                "bake_s": 120,
                "rollback_window": 0,
                "recovery": _RECOVERY,
            },
            "gates": {
                "errors": {"metric": "error_rate", "max": 0.03, "watch": "always", "no_traffic": "roll_back", "patience_s": 600},
                "latency": {**_LATENCY, "watch": "always", "source_down": "ask", "patience_s": 300},
                "drops": {"metric": "promql", "query": "drops{bundle='$bundle'}", "max": 30, "source_down": "roll_back", "patience_s": 600},
            },
        },
        "blue-green": {
            "release": {"strategy": [], "bake_s": 300, "recovery": _RECOVERY},
            "gates": {"latency": _LATENCY, "quality": {**_SCORE, "kind": "guardrail", "limit": 0.25}},
        },
    }
)


class Shelf(store.Store):
    """A real store in which bundles can be declared damaged, and whose paths are looked up once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.damaged: set[str] = set()
        self._paths: dict[str, Path] = {}

    def verify_bundle(self, bundle: manifest.Bundle, *, deep: bool) -> None:
        if bundle.id in self.damaged:
            raise errors.Damaged(f"bundle {bundle.id!r} is damaged, says the world; build it again")

    def path(self, digest: str) -> Path:
        if digest not in self._paths:
            self._paths[digest] = super().path(digest)
        return self._paths[digest]


class Project:
    """Settings, a store, and `BUNDLES` bundles of each configuration; made once and shared by all worlds."""

    def __init__(self, root: Path) -> None:
        self.settings: Settings = projects.project(root)
        self.store = Shelf(self.settings.store)
        self.bundles = {name: self._built(name, root) for name in CONFIGS}
        self.service = {
            made.id: schema.parse((self.store.path(made.parts["config"].digest) / schema.FILE).read_text(), where=name)
            for name, kept in self.bundles.items()
            for made in kept
        }

    def _built(self, name: str, root: Path) -> list[manifest.Bundle]:
        frozen = root / "frozen" / name
        schema.freeze(self.settings.services / SERVICE, frozen, overlay={"serving": {"ready_timeout_s": 60}, **CONFIGS[name]})
        config = store.part(self.store.put(frozen), name="config", media_type="application/vnd.lastgood.tree", meta={})
        made = []
        for number in range(BUNDLES):
            model = self.store.put_bytes(f"{len(name)}{number}".encode(), name="model.json")
            parts = [
                store.part(model, name="model", media_type="application/json", meta={"number": number, "of": name}),
                config,
                store.part(self.store.put_bytes(b"{}", name="e.json"), name="environment", media_type="application/json", meta={}),
            ]
            made.append(manifest.bundle_of(SERVICE, *parts))
        return made
