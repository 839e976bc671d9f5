"""`lastgood liveness`, and what the other verbs show of it. The dates that came with this version are asked, no provider."""

from __future__ import annotations

import time

import pytest

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.model_retirement import records
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run

PIN = {"provider": "anthropic", "model": "claude-opus-4-5-20251101"}


@pytest.fixture
def bundles(settings: Settings) -> list[str]:
    """Two releases; the model of the first, which is the way back, is shut down in ten days."""
    with projects.opened(settings) as ctx:
        found = projects.released(ctx, 1, 2, llms={1: [PIN], 2: [PIN]})
        ends = {"status": "dying", "why": "anthropic/x: it will be shut down on a day", "ends_at": time.time() + 10 * records.DAY_S}
        ctx.ledger.evaluate(found[0], kind=records.KIND, report=ends, actor="test", now=time.time())
    return found


def test_status_and_plans_show_what_ends(run: Run, bundles: list[str]) -> None:
    """Where somebody looks before going back: the status, and the plan of the rollback."""
    done = run("status", "toy")
    assert "! previous uses a model that is dying: anthropic/x: it will be shut down on a day" in done.out
    assert run("status", "toy", "--json").json["ending"]["previous"]["bundle"] == bundles[0]
    facts = run("rollback", "toy", "--dry-run", "--json").json["facts"]
    assert f"! {short(bundles[0])} uses a model that is dying: anthropic/x: it will be shut down on a day" in facts


def test_without_a_provider_the_announced_dates_are_looked_up(run: Run, bundles: list[str]) -> None:
    """Exit code 0: nothing is known to end, or 1 if this version's list says that it does; either way both bundles are shown."""
    done = run("liveness", "toy", "--offline", "--json")
    assert done.json["schema"] == "lastgood.liveness/v1"
    assert [(one["bundle"], one["role"], one["models"]) for one in done.json["bundles"]] == [
        (bundles[1], "stable", ["anthropic/claude-opus-4-5-20251101"]),
        (bundles[0], "way back", ["anthropic/claude-opus-4-5-20251101"]),
    ]
    assert done.code == (0 if done.json["ok"] else 1)
    shown = run("liveness", "toy", "--offline")
    assert "STATUS" in shown.out
    assert short(bundles[1]) in shown.out


def test_without_a_key_the_provider_cannot_be_asked(run: Run, bundles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is known but what is announced, and the key is named."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    told = run("liveness", "toy", "--json").json["bundles"][0]
    assert told["status"] in ("unknown", "alive", "dying", "gone")
    assert told["status"] != "unknown" or "ANTHROPIC_API_KEY" in told["why"]


def test_a_rollback_to_a_gone_model_is_refused(run: Run, settings: Settings, bundles: list[str]) -> None:
    """By itself there is nothing else to go back to; by name the refusal says why, with the exit code of a rule."""
    with projects.opened(settings) as ctx:
        ends = {"status": "gone", "why": "anthropic/x: it was shut down", "ends_at": time.time() - 5}
        ctx.ledger.evaluate(bundles[0], kind=records.KIND, report=ends, actor="test", now=time.time())
        with pytest.raises(errors.NotAllowed):
            release.roll_back(ctx, "toy", release.Request(actor="t", reason="x"))
    done = run("rollback", "toy", bundles[0], "--yes", "--reason", "x")
    assert done.code == 4
    assert "cannot answer any more, anthropic/x: it was shut down" in done.err


def test_a_service_without_hosted_models_has_nothing_to_ask(run: Run, settings: Settings) -> None:
    """It says so, and that is fine."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    done = run("liveness", "toy")
    assert (done.code, done.out.strip()) == (0, "neither the serving bundle nor any rollback target uses a hosted model")


def test_an_unknown_service_is_named(run: Run) -> None:
    """As by every other verb."""
    done = run("liveness", "nothing")
    assert done.code != 0
    assert "never been released" in done.err
