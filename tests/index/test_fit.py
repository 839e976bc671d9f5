"""A bundle whose index and model do not fit each other never gets into the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood.bundle import manifest, store
from lastgood.conformance import index as engines
from lastgood.testing import projects

OTHER = "sha256:" + "f" * 64


def part(name: str, **meta: Any) -> manifest.Part:
    """A part that says this of itself."""
    return manifest.Part(name=name, digest=manifest.sha256(name.encode()), size=1, media_type="x/y", uri="store:x", meta=meta)


def test_model_and_index_name_one_embedder() -> None:
    """The same one fits; a bundle without an index has nothing to fit."""
    manifest.check_embedder(manifest.bundle_of("demo", part("model", embedder=OTHER), part("index", embedder=OTHER)))
    manifest.check_embedder(manifest.bundle_of("demo", part("model")))


@pytest.mark.parametrize(
    "parts",
    [
        [part("model", embedder=OTHER), part("index", embedder=engines.EMBEDDER)],
        [part("model"), part("index", embedder=OTHER)],
        [part("model", embedder=OTHER), part("index")],
        [part("model"), part("index")],
        [part("index", embedder=OTHER)],
    ],
)
def test_whatever_does_not_name_the_same_one_is_refused(parts: list[manifest.Part]) -> None:
    """Also what names none: not knowing is no fit."""
    with pytest.raises(errors.NotAllowed, match="build the index again"):
        manifest.check_embedder(manifest.bundle_of("demo", *parts))


def test_registration_refuses_it_and_leaves_nothing(tmp_path: Path) -> None:
    """With real parts in a real store; the one that fits is taken."""
    settings = projects.project(tmp_path)
    snapshot = engines.make_part(tmp_path / "part", count=5)
    with projects.opened(settings) as ctx:
        known = ctx.ledger.bundle(projects.build(ctx, 1.0))
        index = store.part(ctx.store.put(tmp_path / "part"), name="index", media_type="x/y", meta=snapshot.meta())
        model = known.parts["model"]
        for embedder, fits in ((OTHER, False), (snapshot.embedder, True)):
            told = manifest.Part(name="model", **{**model.entry(), "meta": {"embedder": embedder}})
            made = manifest.bundle_of("toy", told, index, known.parts["config"], known.parts["environment"])
            if fits:
                assert release.register(ctx, made, provenance={}, actor="test", now=5.0, untried=True)
                continue
            with pytest.raises(errors.NotAllowed, match="build the index again"):
                release.register(ctx, made, provenance={}, actor="test", now=5.0, untried=True)
            with pytest.raises(errors.NotFound):
                ctx.ledger.bundle(made.id)
