"""The job `build` on the real data, with DVC, Great Expectations, scikit-learn and MLflow as they are."""

import dagster as dg
import pytest

from lastgood import release
from lastgood.bundle import manifest
from tests.assets.conftest import bundle_of

pytestmark = pytest.mark.timeout(600)


def test_a_build_ends_in_a_registered_bundle_that_verifies(builds):
    """The ledger knows the bundle, and every byte of its four parts is in the store."""
    with release.open_context(builds.settings) as ctx:
        built = ctx.ledger.bundle(bundle_of(builds.a))
        ctx.store.verify_bundle(built, deep=True)
    assert sorted(built.parts) == ["config", "data", "environment", "model"]


def test_the_data_version_of_each_asset_is_the_digest_of_what_it_made(builds):
    """So Dagster's lineage and staleness speak of content."""
    with release.open_context(builds.settings) as ctx:
        built = ctx.ledger.bundle(bundle_of(builds.b))
    for name, digest in {**{name: part.digest for name, part in built.parts.items()}, "bundle": built.id}.items():
        (event,) = builds.b.asset_materializations_for_node(f"flights__{name}")
        assert event.tags["dagster/data_version"] == digest


def test_only_the_configuration_differs_between_a_and_b(builds):
    """B is the pipeline fault of the demo: same data and environment, other options."""
    with release.open_context(builds.settings) as ctx:
        a, b = (ctx.ledger.bundle(bundle_of(run)) for run in (builds.a, builds.b))
    changed = {change.name: change for change in manifest.diff(a, b) if change.change != "same"}
    assert set(changed) <= {"config", "model"}
    assert changed["config"].meta["options"] == (
        {"departure_clock": "local", "late_from": 0.4},
        {"departure_clock": "utc", "late_from": 0.4},
    )


def test_the_evaluation_stands_in_the_ledger_with_the_bundle(builds):
    """Kind `offline`, which a promotion asks for; B was compared with what was stable then, flight by flight."""
    with release.open_context(builds.settings) as ctx:
        (a,), (b,) = (ctx.ledger.evaluations(bundle_of(run)) for run in (builds.a, builds.b))
    assert (a.kind, a.report["against"]) == ("offline", None)
    assert 0.6 < a.report["metrics"]["auc"] < 0.8
    assert b.report["against"]["paired"]["rows"] == b.report["metrics"]["n"]


def test_provenance_names_the_run_the_data_and_the_training(builds):
    """Kept beside the bundle, not inside: it must not change the id."""
    with release.open_context(builds.settings) as ctx:
        provenance = ctx.ledger.bundle_row(bundle_of(builds.a)).provenance
    assert provenance["dagster_run"] == builds.a.run_id
    assert {len(md5) for name, md5 in provenance["parts"]["data"]["dvc"].items() if name != "prepared"} == {32}
    assert set(provenance["parts"]["model"]["mlflow"]) == {"run_id", "experiment_id", "model_id", "model_uri"}


def test_each_training_is_one_finished_mlflow_run_with_its_model(builds):
    """Parameters, datasets under DVC's digests, metrics, plots; saved as skops; nothing lands outside the home folder."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=builds.settings.tracking_uri)
    known = client.search_runs([client.get_experiment_by_name("lastgood").experiment_id])
    runs = [run for run in known if run.data.tags["dagster_run_id"] in {builds.a.run_id, builds.b.run_id}]
    assert len(runs) == 2
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri.removeprefix("file://").startswith(str(builds.settings.home))
        assert "learning_rate" in run.data.params
        assert "auc" in run.data.metrics
        assert {item.dataset.digest[:4] for item in run.inputs.dataset_inputs} == {"md5:"}
        assert {file.path for file in client.list_artifacts(run.info.run_id, "plots")} == {"plots/calibration.png", "plots/roc.png"}
    with_model = {model.source_run_id for model in client.search_logged_models([runs[0].info.experiment_id])}
    assert with_model >= {run.info.run_id for run in runs}
    assert list(builds.settings.home.glob("mlartifacts/**/model.skops"))


def test_the_bundle_is_a_version_in_mlflow_that_leads_to_its_training(builds):
    """Whoever looks at the model registry finds the run, the plots and the parts of a bundle, before any promotion."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=builds.settings.tracking_uri)
    with release.open_context(builds.settings) as ctx:
        row = ctx.ledger.bundle_row(bundle_of(builds.b))
    trained = row.provenance["parts"]["model"]["mlflow"]
    (version,) = client.search_model_versions(f"name='flights' and tags.`lastgood.bundle`='{row.bundle.id}'")
    assert version.tags["lastgood.part.config"] == row.bundle.parts["config"].digest
    assert version.tags["lastgood.mlflow_model_id"] == trained["model_id"]
    assert client.get_run(version.run_id).data.tags["lastgood.part.model"] == row.bundle.parts["model"].digest


def test_no_pickle_is_written_anywhere(builds):
    """Assets return references, so Dagster's default storage, which pickles, is never used; MLflow writes skops."""
    files = [file for file in builds.root.rglob("*") if file.is_file()]
    assert any(file.suffix == ".skops" for file in files)
    assert [file for file in files if file.suffix in {".pkl", ".pickle", ".joblib", ".cloudpickle"}] == []
    storage = [file for file in (builds.root / "storage").rglob("*") if file.is_file()]
    assert [file for file in storage if "compute_logs" not in file.parts] == []
    assert [file for file in files if file.read_bytes()[:1] == b"\x80" and file.read_bytes()[-1:] == b"."] == []


def test_the_ui_gets_pictures_tables_and_the_way_on(builds):
    """What a person sees when clicking on the model and on the bundle."""
    (model,) = builds.b.asset_materializations_for_node("flights__model")
    assert model.metadata["calibration and ROC"].value.count("data:image/png;base64,") == 2
    stable = {record.data["metric"]: record.data["stable"] for record in model.metadata["evaluation"].records}
    assert stable["auc"] > 0.6
    assert model.metadata["against stable"].value.endswith("flights of 31 days)")
    (bundle,) = builds.b.asset_materializations_for_node("flights__bundle")
    assert {record.data["part"]: record.data["against stable"] for record in bundle.metadata["parts"].records}["config"] == "changed"
    assert "lastgood promote flights" in bundle.metadata["promote"].value


def test_all_checks_ran_and_passed(builds):
    """Five of the data, one of the model, one of the bundle."""
    found = {check.check_name: check.passed for check in builds.a.get_asset_check_evaluations()}
    assert found == dict.fromkeys(["schema", "nulls", "ranges", "categories", "leakage", "limits", "verifies"], True)


def test_a_model_below_its_floor_fails_the_run_and_is_not_bundled(builds):
    """A model that cannot split says the base rate for every flight: AUC 0.5."""
    hopeless = {"ops": {"flights__model": {"config": {"min_samples_leaf": 100_000}}}}
    job = builds.definitions.resolve_job_def("build")
    chosen = [dg.AssetKey(["flights", name]) for name in ("model", "bundle")]
    run = job.execute_in_process(run_config=hopeless, instance=builds.instance, asset_selection=chosen, raise_on_error=False)
    assert not run.success
    (check,) = [check for check in run.get_asset_check_evaluations() if check.check_name == "limits"]
    assert not check.passed
    assert "auc is 0.5" in check.metadata["missed"].value
    assert not run.asset_materializations_for_node("flights__bundle")
