"""Two installations and a bundle to carry between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lastgood.bundle import manifest as bundle
from lastgood.bundle import store as bundle_store
from lastgood.system import signing as keys


@dataclasses.dataclass(frozen=True)
class Row:
    """What the ledger would hand over."""

    bundle: bundle.Bundle
    provenance: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Home:
    """A store and a key."""

    store: bundle_store.Store
    keys: Path

    @property
    def fingerprint(self) -> str:
        return keys.public_fingerprint(keys.load_public(self.keys))


def make_home(folder: Path) -> Home:
    """A new installation in *folder*."""
    keys.init_keys(folder / "keys")
    return Home(store=bundle_store.Store(folder / "store"), keys=folder / "keys")


@pytest.fixture
def ours(tmp_path):
    """The installation that exports."""
    return make_home(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path):
    """The installation that imports."""
    return make_home(tmp_path / "theirs")


@pytest.fixture
def row(tmp_path, ours):
    """A bundle with a folder part (with a repeated and an empty file) and two file parts, in our store."""
    folder = tmp_path / "config"
    (folder / "code").mkdir(parents=True)
    (folder / "service.yaml").write_text("service: flights\n")
    (folder / "code" / "__init__.py").write_text("")
    (folder / "code" / "runtime.py").write_text("answer = 42\n")
    (folder / "code" / "twin.py").write_text("answer = 42\n")
    config = ours.store.put(folder, allow=bundle_store.CONFIG_FORMATS)
    model = ours.store.put_bytes(bytes(range(256)) * 40, name="weights.ubj")
    data = ours.store.put_bytes(b"carrier,late\nUA,1\n", name="data.csv")
    parts = (
        bundle_store.part(config, name="config", media_type="application/x.tree", meta={}),
        bundle_store.part(model, name="model", media_type="application/octet-stream", meta={"auc": 0.7}),
        bundle_store.part(data, name="data", media_type="text/csv", meta={}),
    )
    return Row(bundle=bundle.bundle_of("flights", *parts), provenance={"git": "abc", "run": None})
