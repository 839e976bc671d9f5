"""The index layer does what every layer must do, on LanceDB."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lastgood import errors, settings
from lastgood.bundle import manifest
from lastgood.bundle import store as bundle_store
from lastgood.conformance import index as engines
from lastgood.conformance import layers
from lastgood.index import lancedb
from lastgood.layers import base, reconcile
from lastgood.layers import vector_index as index
from lastgood.service import schema
from lastgood.settings import Settings
from tests.layers import wanted

SERVICE = wanted.SERVICE


def make_bundle(store: bundle_store.Store, folder: Path, *, seed: int) -> manifest.Bundle:
    """A bundle with an index of its own."""
    snapshot = engines.make_part(folder / f"part{seed}", count=20, seed=seed)
    stored = store.put(folder / f"part{seed}", allow=bundle_store.DATA_FORMATS)
    part = bundle_store.part(stored, name="index", media_type="application/vnd.lastgood.index", meta=snapshot.meta())
    return manifest.bundle_of(SERVICE, part)


class IndexSubject(layers.Subject):
    """A layer on its own folder; away means that a file stands where the engine's folder was."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(project=folder, home=folder / "home")
        self.root = folder / "home" / "index"
        store = bundle_store.Store(self.settings.store)
        self.bundles = tuple(make_bundle(store, folder, seed=seed) for seed in (1, 2))
        self.layer = self.reopen()

    def desired(self, revision: int, *, stable: manifest.Bundle | None, previous: manifest.Bundle | None = None) -> base.Desired:
        """What a ledger would say."""
        return wanted.desired(self.bundles, revision, stable=stable, previous=previous)

    def reopen(self) -> base.Layer:
        """Another object on the same folders."""
        return index.build(self.settings, SERVICE)

    def take_down(self) -> None:
        """Put a file in the folder's place."""
        self.root.rename(self.root.with_name("away"))
        self.root.write_text("no folder")

    def bring_up(self) -> None:
        """Put the folder back."""
        if self.root.is_file():
            self.root.unlink()
            self.root.with_name("away").rename(self.root)

    def tamper(self) -> None:
        """Lose the replicas."""
        for replica in lancedb.LanceIndex(self.root).replicas():
            (self.root / replica.name).chmod(0o755)
            shutil.rmtree(self.root / replica.name)

    def serves(self) -> str | None:
        """The bundle whose replica the alias stable stands for."""
        link = self.root / f"{SERVICE}-stable"
        names = {f"idx{str(one.parts['index'].meta['snapshot'])[7:23]}": one.id for one in self.bundles}
        return names.get(link.readlink().name) if link.is_symlink() else None


class TestIndex(layers.LayerSuite):
    """The suite."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> IndexSubject:
        """A fresh layer."""
        return IndexSubject(tmp_path)


def test_a_damaged_replica_is_replaced_before_a_worker_needs_it(tmp_path: Path) -> None:
    """The layer sees it at its next look, and builds it from the store."""
    subject = IndexSubject(tmp_path)
    state = subject.desired(1, stable=subject.bundles[0])
    subject.settled(subject.layer, state)
    file = next((subject.root / next(iter(index.wanted_of(state).values()))).rglob("data/*.lance"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    assert subject.layer.verify(state, subject.layer.observe()) is False
    subject.settled(subject.layer, state)
    lancedb.LanceIndex(subject.root).verify(next(iter(index.wanted_of(state).values())), deep=True)


def test_a_part_that_is_not_in_the_store_is_told(tmp_path: Path) -> None:
    """With the remedy, and as something that is tried again."""
    subject = IndexSubject(tmp_path)
    shutil.move(subject.settings.store, tmp_path / "gone")
    with pytest.raises(base.LayerError, match="build it again"):
        subject.layer.apply(subject.desired(1, stable=subject.bundles[0]))


@pytest.mark.parametrize(("parts", "expected"), [("[index, prompt]", {"index", "prompts"}), ("[model]", set())])
def test_a_service_has_the_layers_that_its_parts_need(tmp_path: Path, parts: str, expected: set[str]) -> None:
    """And one whose folder cannot be read has the others at least."""
    folder = tmp_path / "services" / SERVICE
    folder.mkdir(parents=True)
    text = f"schema: {schema.SCHEMA}\nservice: {SERVICE}\ntier: rag\nowner: x\nparts: {parts}\ntraffic: {{port: 18082}}\n"
    (folder / schema.FILE).write_text(text)
    here = Settings(project=tmp_path, home=tmp_path / "home")
    assert {"index", "prompts"} & set(reconcile.build(here, SERVICE)) == expected
    (folder / schema.FILE).write_text("no: yaml: at all")
    assert {"infrastructure", "traffic", "registry"} <= set(reconcile.build(here, SERVICE))


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    """With the forms that there are."""
    here = Settings(project=tmp_path, home=tmp_path, index=settings.IndexSettings(url="ftp://x"))
    with pytest.raises(errors.UsageError, match="postgresql://"):
        index.build(here, SERVICE)
