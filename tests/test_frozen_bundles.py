"""Bundles that earlier code froze are served by today's, answer what they answered then, and are rolled back to."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import archive as bundle_archive
from lastgood.drift import reference
from lastgood.service import frozen as frozen_service
from lastgood.service import schema
from lastgood.serving import inference_log, worker
from lastgood.settings import Settings
from tests import project
from tests.services import samples

FOLDER = Path(__file__).parent / "data" / "bundles"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SERVICES = sorted({name.partition("-")[0] for name in NAMES})


def record(name: str) -> dict[str, Any]:
    """Id, signer, rows, answers and features of a frozen bundle."""
    value: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return value


def archive(name: str) -> Path:
    """Its exported file."""
    return FOLDER / f"{name}.lastgood.tar"


def alike(now: Any, then: Any) -> bool:
    """Equal, numbers to nine digits: another processor may round the last one otherwise."""
    if isinstance(then, Mapping):
        return isinstance(now, Mapping) and now.keys() == then.keys() and all(alike(now[key], then[key]) for key in then)
    if isinstance(then, list):
        return len(now) == len(then) and all(alike(one, other) for one, other in zip(now, then, strict=True))
    return bool(now == pytest.approx(then, rel=1e-9, abs=1e-12)) if isinstance(then, float) else bool(now == then)


def test_there_are_bundles_of_each_service_of_ours() -> None:
    """A service without one is not kept to anything."""
    ours = {path.parent.name for path in (samples.PROJECT / "services").glob("*/service.yaml")}
    assert set(SERVICES) == ours
    assert all(archive(name).is_file() for name in NAMES)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A project that has nothing but the two files that a bundle is loaded with."""
    (tmp_path / "requirements.lock").write_text("another==1\n", "utf-8")
    (tmp_path / "lastgood.toml").write_text('[layers]\nregistry = ""\nprompts = ""\n', "utf-8")
    return settings_.load(tmp_path, environ={})


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_what_it_answered(name: str, home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported, tried, registered, and loaded as a worker loads it; its reference is read as the drift watch does."""
    monkeypatch.setenv("LASTGOOD_PROJECT", str(home.project))
    before = record(name)
    with release.open_context(home, create=True) as ctx:
        found, provenance = bundle_archive.import_(archive(name), store=ctx.store, keys=home.keys, trust=frozenset({before["signer"]}))
        assert found.id == before["bundle"]
        release.register(ctx, found, provenance=provenance, actor="test", now=1.0)
        assert ctx.ledger.bundle_row(found.id).provenance["trial"]["outcome"] in ("answered", "unknown")
        loaded = worker.load(home, service=found.service, bundle=found.id, now=1.0)
        rows = [loaded.runtime.Request.model_validate_json(json.dumps(row)) for row in before["rows"]]
        assert alike(loaded.runtime.predict(rows), before["answers"])
        features = loaded.runtime.features(rows) or {}
        assert alike({key: [None if x != x else float(x) for x in values] for key, values in features.items()}, before["features"])
        table = reference.read(ctx.store.path(found.parts["data"].digest) / reference.FILE).table
        assert list(inference_log.refusals(table, loaded.runtime.Request)) == []


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Any]:
    """`lastgood ARGS` in a copy of the project; what it started is ended."""
    root = tmp_path / "project"
    project.copy(root)
    env = {**os.environ, "LASTGOOD_PROJECT": str(root), "LASTGOOD_ACTOR": "test"}

    def run(*args: str) -> str:
        done = subprocess.run([sys.executable, "-m", "lastgood", *args], env=env, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, f"{args}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    run.root = root  # type: ignore[attr-defined]
    yield run
    run("down", "--yes")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("service", SERVICES)
def test_it_is_served_and_rolled_back_to(service: str, cli: Any) -> None:
    """By the whole stack of today, out of the file: promote the older, then the newer, then back; each answers as it did."""
    port = schema.load(cli.root / "services" / service).traffic.port
    names = [name for name in NAMES if name.startswith(service)][-2:]
    older, newer = map(record, names)
    for name, frozen in zip(names, (older, newer), strict=True):
        cli("bundle", "import", str(archive(name)), "--trust", frozen["signer"])
        evaluate(cli.root, frozen["bundle"])
    cli("up", service)
    for frozen in (older, newer):
        way = ["--strategy", "none", "--reason", "a test"]
        cli("promote", service, frozen["bundle"], "--yes", "--timeout", "120", *way)
        assert answered(port, frozen)
    cli("rollback", service, "--yes", "--reason", "a test", "--timeout", "120")
    assert answered(port, older)


def evaluate(root: Path, bundle: str) -> None:
    """Give *bundle* an offline evaluation that just keeps the limits frozen in it: nobody evaluated the file."""
    with release.open_context(settings_.load(root, environ={})) as ctx:
        frozen = frozen_service.read(ctx.ledger.bundle(bundle), store=ctx.store)
        assert frozen is not None
        metrics = {**frozen.evaluation.floors, **frozen.evaluation.ceilings}
        ctx.ledger.evaluate(bundle, kind="offline", report={"metrics": metrics}, actor="test", now=1.0)


def answered(port: int, frozen: Mapping[str, Any]) -> bool:
    """Whether the proxy's answers to the recorded rows come from *frozen* and are those of that day."""
    for row, then in zip(frozen["rows"], frozen["answers"], strict=True):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict", json.dumps(row).encode(), {"content-type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        assert (response.status, response.getheader("x-lastgood-bundle")) == (200, frozen["bundle"]), body
        assert alike([{key: value for key, value in one.items() if key in then} for one in body["predictions"]], [then])
    return True
