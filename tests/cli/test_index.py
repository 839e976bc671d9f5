"""`lastgood index`: what the engine holds, whether it is whole, what may go and what must stay."""

from __future__ import annotations

import pytest

from lastgood import release
from lastgood.bundle import manifest, store
from lastgood.conformance import index as engines
from lastgood.index import catalog
from lastgood.release import advance
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run


@pytest.fixture
def served(settings: Settings) -> tuple[str, str, str]:
    """A stable bundle with an index, its replica, and another replica that nobody needs: (bundle, replica, the other)."""
    work = settings.project / "work"
    snapshot = engines.make_part(work / "part", count=10)
    other = engines.make_part(work / "other", count=10, seed=2)
    with projects.opened(settings) as ctx:
        known = ctx.ledger.bundle(projects.build(ctx, 1.0))
        index = store.part(ctx.store.put(work / "part"), name="index", media_type="x/y", meta=snapshot.meta())
        told = manifest.Part(name="model", **{**known.parts["model"].entry(), "meta": {"embedder": snapshot.embedder}})
        made = manifest.bundle_of("toy", told, index, known.parts["config"], known.parts["environment"])
        release.register(ctx, made, provenance={}, actor="test", now=5.0, untried=True)
        release.propose(ctx, "toy", made.id, release.Request(actor="test", reason="test"))
        advance.advance(ctx, "toy", ready={made.id}, actor="test")
    engine = catalog.connect(settings)
    for name in ("part", "other"):
        engine.build(work / name)
    return made.id, snapshot.name, other.name


def test_what_is_there_and_who_needs_it(run: Run, served: tuple[str, str, str]) -> None:
    """As a table and as JSON."""
    _, mine, other = served
    told = {one["name"]: one for one in run("index", "list", "--json").json["replicas"]}
    assert set(told) == {mine, other}
    assert "it is stable" in told[mine]["needed"][0]
    assert told[other]["needed"] == []
    text = run("index", "list").out
    assert mine in text
    assert "it is stable" in text


def test_a_damaged_replica_is_told_and_fails_the_command(run: Run, served: tuple[str, str, str], settings: Settings) -> None:
    """Whole: 0; damaged: 1, with what is wrong; without an index in the bundle: 2."""
    bundle, mine, _ = served
    assert run("index", "verify", "toy").code == 0
    file = next((settings.home / "index" / mine / "lance").rglob("data/*.lance"))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    done = run("index", "verify", "toy", bundle, "--json")
    assert (done.code, done.json["ok"]) == (1, False)
    assert "differs from what was written" in done.json["indexes"][0]["why"]
    with projects.opened(settings) as ctx:
        plain = projects.build(ctx, 2.0)
    assert run("index", "verify", "toy", plain).code == 2


def test_what_is_needed_stays_and_the_rest_may_go(run: Run, served: tuple[str, str, str]) -> None:
    """By name and all at once; a dry run changes nothing; young ones stay until they are named."""
    _, mine, other = served
    refused = run("index", "retire", mine)
    assert refused.code == 4
    assert "it is stable" in refused.err
    assert run("index", "retire", "--json").json["retired"] == []
    old = {"LASTGOOD_INDEX_KEEP_DAYS": "0"}
    assert run("index", "retire", "--dry-run", "--json", env=old).json["retired"] == [other]
    assert run("index", "retire", "--json", env=old).json["retired"] == [other]
    assert run("index", "retire", other).code == 2


def test_a_legal_hold_is_laid_and_lifted(run: Run, served: tuple[str, str, str]) -> None:
    """With a reason that is kept; a second time there is nothing to do."""
    bundle, _, _ = served
    assert run("index", "hold", "toy", bundle).code == 2
    assert run("index", "hold", "toy", bundle, "--reason", "case 7").code == 0
    assert run("index", "hold", "toy", bundle, "--reason", "case 7").code == 7
    assert any("legal hold" in why for one in run("index", "list", "--json").json["replicas"] for why in one["needed"])
    assert run("index", "release-hold", "toy", bundle, "--reason", "settled").code == 0
    assert run("audit", "verify", "toy").code == 0
