"""Two real builds, made once: A as in params.yaml, and, with A stable, B whose serving reads departure times in UTC."""

import dataclasses
from pathlib import Path

import dagster as dg
import pytest

from lastgood import release
from lastgood.release import convergence
from lastgood.settings import Settings
from pipelines.definitions import build_definitions
from tests.pipelines import world

UTC = {"ops": {"flights__config": {"config": {"options": {"departure_clock": "utc"}}}}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Builds:
    """What the two runs left behind."""

    root: Path
    settings: Settings
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    a: dg.ExecuteInProcessResult
    b: dg.ExecuteInProcessResult


def bundle_of(result: dg.ExecuteInProcessResult) -> str:
    """The id of the bundle that a run registered."""
    (made,) = result.asset_materializations_for_node("flights__bundle")
    return str(made.metadata["lastgood/bundle"].value)


@pytest.fixture(scope="package")
def builds(tmp_path_factory):
    """The builds, with everything they wrote below one folder."""
    root = tmp_path_factory.mktemp("builds")
    settings = world.settings(root / "home", LASTGOOD_LAYERS_REGISTRY="mlflow")
    definitions = build_definitions({"settings": settings})
    job = definitions.resolve_job_def("build")
    with dg.instance_for_test(temp_dir=str(root)) as instance:
        a = job.execute_in_process(instance=instance)
        with release.open_context(settings) as ctx:
            convergence.promote(ctx, "flights", bundle_of(a), reason="first", actor="test")
        b = job.execute_in_process(run_config=UTC, instance=instance)
        yield Builds(root=root, settings=settings, instance=instance, definitions=definitions, a=a, b=b)
