"""The command line says where a try is shorter than what it is for."""

from __future__ import annotations

import pytest

from lastgood.layers.infrastructure.local import warm_ups
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run


@pytest.fixture
def two(settings: Settings) -> list[str]:
    """Two bundles; the first is stable. The second asks a model that may take longer than a request."""
    pin = {"provider": "openai", "model": "m-2025-01-01", "params": {"budget_s": 90.0}}
    with projects.opened(settings) as ctx:
        return [projects.build(ctx, 0.1), projects.build(ctx, 0.2, llms=[pin])]


def test_promote_plan_and_doctor_say_where_a_try_is_too_short(run: Run, settings: Settings, two: list[str]) -> None:
    """Before the release by what an earlier worker of the bundle said, after it by its own; a bundle that is fast enough is not spoken of."""
    assert run("promote", "toy", two[0], "--yes", "--json").json["warnings"] == []
    run_folder = settings.run("toy")
    run_folder.mkdir(parents=True, exist_ok=True)
    warm_ups.keep(run_folder, {two[0]: 0.2, two[1]: 4.5})
    plan = run("plan", "toy", two[1])
    assert "its warm-up took 4.5 s, longer than the 3 s of a try" in plan.out
    assert "may take 90 s by its pin, but traffic.per_try_timeout_s ends a try after 3 s" in plan.out
    done = run("promote", "toy", two[1], "--yes", "--strategy", "none", "--json").json
    assert len(done["warnings"]) == 2
    assert any("raise per_try_timeout_s" in warning for warning in done["warnings"])
    assert done["requests"] == {"known": False, "leaving": [], "cut_off": []}, "without a layer of workers nobody knows"
    findings = [one for one in run("doctor", "--json").json["findings"] if one["name"] == "time limits toy"]
    assert [one["ok"] for one in findings] == [False, False]
    assert all("raise per_try_timeout_s" in one["remedy"] for one in findings)
