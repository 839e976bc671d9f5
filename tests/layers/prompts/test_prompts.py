"""The mirror of prompts in MLflow does what every layer must do, on a database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood.bundle import manifest, store
from lastgood.conformance import layers
from lastgood.layers import base, mlflow_base, prompts
from lastgood.settings import Settings
from tests.layers import wanted
from tests.layers.registry.test_registry import exclusive
from tests.mlflow_template import mlflow_db, mlflow_template

__all__ = ["mlflow_db", "mlflow_template"]

SERVICE = wanted.SERVICE


class PromptsSubject(layers.Subject):
    """A mirror on its own MLflow database; away means that somebody else holds the file."""

    def __init__(self, db: Path, folder: Path) -> None:
        from mlflow import MlflowClient

        self.db = db
        self.settings = Settings(project=db.parent.parent, home=db.parent)
        self.client = MlflowClient(self.settings.tracking_uri, self.settings.tracking_uri)
        self.store = store.Store(self.settings.store)
        self.bundles = tuple(self.bundle(folder / text, f"{text} {{{{ question }}}}") for text in ("one", "two"))
        self.layer = self.reopen()
        self.outage = contextlib.ExitStack()

    def bundle(self, folder: Path, text: str) -> manifest.Bundle:
        """A bundle whose prompt says *text*."""
        folder.mkdir()
        (folder / "user.txt").write_text(text)
        stored = self.store.put(folder)
        return manifest.bundle_of(SERVICE, store.part(stored, name="prompt", media_type="text/plain", meta={}))

    def desired(self, revision: int, *, stable: manifest.Bundle | None, previous: manifest.Bundle | None = None) -> base.Desired:
        """What a ledger would say."""
        return wanted.desired(self.bundles, revision, stable=stable, previous=previous)

    def reopen(self) -> base.Layer:
        """Another object on the same database."""
        return prompts.build(self.settings, SERVICE)

    def take_down(self) -> None:
        """Lock the file."""
        self.outage.enter_context(exclusive(self.db))

    def bring_up(self) -> None:
        """Unlock the file."""
        self.outage.close()

    def tamper(self) -> None:
        """Move the alias stable by hand."""
        other = self.client.get_prompt_version_by_alias("demo-prompt", "previous")
        self.client.set_prompt_alias("demo-prompt", "stable", int(other.version))

    def serves(self) -> str | None:
        """The bundle whose prompt the alias stable shows."""
        from mlflow.exceptions import MlflowException

        self.outage.close()
        try:
            shown: Any = self.client.get_prompt_version_by_alias("demo-prompt", "stable")
        except MlflowException:
            return None
        return {one.parts["prompt"].digest: one.id for one in self.bundles}[shown.tags[prompts.PART_TAG]]


class TestPrompts(layers.LayerSuite):
    """The suite, on MLflow."""

    @pytest.fixture
    def subject(self, mlflow_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PromptsSubject]:
        """A fresh mirror that gives up on a locked file quickly."""
        monkeypatch.setattr(mlflow_base, "BUSY_S", 0.1)
        made = PromptsSubject(mlflow_db, tmp_path)
        yield made
        made.bring_up()


def test_one_version_for_each_prompt_however_often_it_comes_back(mlflow_db: Path, tmp_path: Path) -> None:
    """Released, rolled back, released again: two prompts are two versions, and their text can be read there."""
    subject = PromptsSubject(mlflow_db, tmp_path)
    first, second = subject.bundles
    for revision, stable in enumerate((first, second, first, second), start=1):
        subject.settled(subject.reopen(), subject.desired(revision, stable=stable))
    versions = subject.client.search_prompt_versions("demo-prompt")
    assert len(list(versions)) == 2
    shown = subject.client.get_prompt_version_by_alias("demo-prompt", "stable")
    assert "two {{ question }}" in shown.template


def test_a_bundle_without_a_prompt_has_no_alias(mlflow_db: Path, tmp_path: Path) -> None:
    """A service that had none for a while is no fault."""
    subject = PromptsSubject(mlflow_db, tmp_path)
    plain = manifest.bundle_of(SERVICE, manifest.Part(name="model", digest=manifest.sha256(b"x"), size=1, media_type="x/y", uri="store:x"))
    subject.bundles = (*subject.bundles, plain)
    subject.settled(subject.layer, subject.desired(1, stable=subject.bundles[0]))
    observed = subject.settled(subject.layer, subject.desired(2, stable=plain))
    assert observed.facts["aliases"] == {}
