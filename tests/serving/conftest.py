"""A home with real bundles of the flights service in its store."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lastgood.bundle import environment, manifest
from lastgood.bundle import store as bundle_store
from lastgood.service import schema
from lastgood.serving import app, segments, worker
from lastgood.settings import Settings
from tests.services import samples


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a test's store, logs and bundles are."""

    settings: Settings
    store: bundle_store.Store

    def bundle(self, *, options: Mapping[str, Any] | None = None, replace: Mapping[str, Path] | None = None) -> manifest.Bundle:
        """A bundle of the small model, stored as registration stores it; *replace* gives other folders for parts."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "reference.json").write_text('{"months": [1]}\n')
            environment_file = folder / environment.FILE
            environment_file.write_bytes(environment.encode(environment.describe(samples.PROJECT / "requirements.lock")))
            sources = {
                "data": folder / "reference.json",
                "model": samples.model_folder(),
                "config": schema.freeze(samples.PROJECT / "services" / "flights", folder / "config", options=options),
                "environment": environment_file,
                **(replace or {}),
            }
            parts = [
                bundle_store.part(self.store.put(source), name=name, media_type="application/octet-stream", meta={})
                for name, source in sources.items()
            ]
        made = manifest.bundle_of("flights", *parts)
        self.store.put_bytes(manifest.canonical(made.manifest()), name="manifest.json")
        return made

    def load(self, made: manifest.Bundle) -> app.Loaded:
        """That bundle, loaded as a worker does."""
        return worker.load(self.settings, service="flights", bundle=made.id, now=0.0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home of this project."""
    found = Settings(project=samples.PROJECT, home=tmp_path / "home")
    return Home(settings=found, store=bundle_store.Store(found.store))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A loaded bundle behind a client, in this process."""

    client: TestClient
    loaded: app.Loaded
    predictions: segments.SegmentLog
    feedback: segments.SegmentLog
    folder: Path

    def flush(self) -> None:
        """Write what waits now."""
        self.predictions.flush()
        self.feedback.flush()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The application of a bundle, ready, with its logs written; shared by the tests of a file."""
    settings = Settings(project=samples.PROJECT, home=tmp_path_factory.mktemp("home"))
    at_home = Home(settings=settings, store=bundle_store.Store(settings.store))
    loaded = at_home.load(at_home.bundle())
    predictions, feedback = worker.logs(settings, loaded)
    application = app.create(loaded, predictions_log=predictions, feedback_log=feedback)
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        wait_ready(client)
        yield Served(client=client, loaded=loaded, predictions=predictions, feedback=feedback, folder=settings.inference("flights"))


def wait_ready(client: TestClient) -> None:
    """Ask until the warm-up has been answered; the test's own timeout is the deadline."""
    while client.get("/readyz").status_code != 200:
        pass
