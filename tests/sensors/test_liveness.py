"""The sensor that asks whether hosted models still live, on a ledger with a release."""

from __future__ import annotations

import dagster as dg
import pytest

from dagster_lastgood.sensors import model_liveness as liveness
from lastgood.model_retirement import records
from lastgood.settings import Settings
from lastgood.testing import projects

PIN = {"provider": "anthropic", "model": "claude-opus-4-5-20251101"}


@pytest.fixture
def settings(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A project whose only service is `toy`, and no key of any provider."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    return projects.project(tmp_path)


def tick(settings: Settings) -> str:
    """What the sensor says."""
    with dg.build_sensor_context(resources={"settings": settings}) as context:
        return liveness.model_liveness(["toy"])(context).skip_message


def test_nothing_is_asked_before_the_first_release(settings: Settings) -> None:
    """Nor for a bundle that asks no hosted model."""
    assert tick(settings) == "no bundle uses a hosted model"


def test_each_bundle_is_told_and_written_down(settings: Settings) -> None:
    """One sentence with the model; the same stands in the ledger, where a rollback finds it."""
    with projects.opened(settings) as ctx:
        (digest,) = projects.released(ctx, 1, llms={1: [PIN]})
    said = tick(settings)
    assert said.startswith("toy: stable anthropic/claude-opus-4-5-20251101 is ")
    with projects.opened(settings) as ctx:
        (found,) = ctx.ledger.evaluations(digest)
    assert found.kind == records.KIND
    assert said.endswith(found.report["status"])


def test_a_ledger_that_cannot_be_read_is_a_reason(settings: Settings) -> None:
    """The tick fails readably, and the next one tries again."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    (settings.home / "ledger.db").write_bytes(b"no database")
    assert tick(settings).startswith("cannot check the models: ")
