"""Jobs and sensors where there is no ledger, or no such service: a failure that says so, a skip that says so, and nothing made."""

import json
from pathlib import Path

import dagster as dg
import pytest

from pipelines import definitions
from tests.pipelines import world

ASKS = {
    "promote": ("promote", {"bundle": "stable", "reason": "x"}),
    "approve": ("approve", {"reason": "x"}),
    "rollback": ("roll_back", {"reason": "x"}),
    "evaluate_rollback": ("evaluate", {}),
    "drift_report": ("report", {}),
}


@pytest.mark.parametrize("there", [False, True], ids=["no ledger", "no such service"])
@pytest.mark.parametrize("job", ASKS)
def test_a_job_about_nothing_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, there: bool) -> None:
    """Not 'nothing to do', which counts as success. A report on what nobody watches is a result that says so."""
    if there and job == "drift_report":
        return
    home = tmp_path / "home"
    if there:
        world.released(home, "a")
    for name, value in world.environment(home).items():
        monkeypatch.setenv(name, value)
    op, config = ASKS[job]
    asked = {"ops": {op: {"config": {"service": "nosuch" if there else "flights", **config}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        done = definitions.defs.resolve_job_def(job).execute_in_process(run_config=asked, instance=instance, raise_on_error=False)
        assert not done.success
        said = json.dumps([str(event) for event in done.all_events if event.is_failure or event.is_step_failure])
    assert ("flights" if there else "there is no ledger") in said
    assert home.exists() == there
