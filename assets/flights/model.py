"""The model part: a gradient-boosted classifier, its training run in MLflow, and its evaluation on later months."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.flights import data
from dagster_lastgood import metadata as show
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

if TYPE_CHECKING:
    from lastgood.bundle.store import Stored
    from services.flights.model import Model

KEY = parts.key("flights", "model")
CODE = ("services/flights/train.py", "services/flights/features.py", "services/flights/model.py", "params.yaml")


class Hyperparameters(dg.Config):
    """Of scikit-learn's HistGradientBoostingClassifier; what is left out is taken from params.yaml."""

    learning_rate: float | None = Field(default=None, gt=0)
    max_iter: int | None = Field(default=None, gt=0)
    max_leaf_nodes: int | None = Field(default=None, gt=1)
    min_samples_leaf: int | None = Field(default=None, gt=0)
    l2_regularization: float | None = Field(default=None, ge=0)


@dg.asset(
    key=KEY,
    deps=[data.KEY],
    group_name="flights",
    kinds={"scikitlearn", "mlflow"},
    owners=["team:flights-on-call"],
    code_version=parts.code_version(*CODE),
    description="Will a flight arrive at least 15 minutes late? Saved as skops, evaluated on the months after training.",
)
def model(
    context: dg.AssetExecutionContext,
    config: Hyperparameters,
    settings: dg.ResourceParam[settings_.Settings],
    mlflow: dg.ResourceParam[Any],
) -> dg.MaterializeResult[Any]:
    """Train on the data this run made, evaluate against what is stable now, and write the training down in MLflow."""

    from lastgood.bundle import store as artifacts
    from lastgood.system import yaml_errors as yaml_lines

    params = yaml_lines.load((settings.project / "params.yaml").read_text("utf-8"), where="params.yaml")["train"] | config.model_dump(
        exclude_none=True
    )
    source = parts.made(context, "flights", "data")
    trained = train(settings, source.part.digest, params)
    run = track(mlflow, trained, source, params)
    meta = {"params": params, "train": source.part.meta["train"]}
    part = artifacts.part(trained.stored, name="model", media_type="application/vnd.skops", meta=meta)
    metadata = {
        **{f"evaluation/{name}": value for name, value in trained.report["metrics"].items()},
        "calibration and ROC": show.pictures(trained.pngs),
        "evaluation": comparison(trained.report),
        "against stable": verdict(trained.report),
        "mlflow run": show.mlflow_run(settings.tracking_uri, experiment_id=run["experiment_id"], run_id=run["run_id"]),
        parts.REPORT: dg.MetadataValue.json(trained.report),
    }
    return parts.result(context, part, provenance={"mlflow": run}, metadata=metadata)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model in the store, with its report (see services/flights/README.md) and its plots as PNG by name."""

    fitted: "Model"
    stored: "Stored"
    report: Mapping[str, Any]
    pngs: Mapping[str, bytes]


def train(settings: settings_.Settings, data_digest: str, params: Mapping[str, Any]) -> Trained:
    """Fit on train.parquet of the stored data, store the model, evaluate it on evaluate.parquet."""
    import pandas

    from lastgood.bundle import store as artifacts
    from lastgood.drift import reference as references
    from services.flights import drift, evaluate, features, figures
    from services.flights import train as training

    store = artifacts.Store(settings.store)
    folder = store.path(data_digest)
    fitted = training.fit(pandas.read_parquet(folder / "train.parquet"), params)
    later = pandas.read_parquet(folder / "evaluate.parquet")
    with tempfile.TemporaryDirectory() as scratch:
        saved = training.save(fitted, Path(scratch) / "model")
        made = drift.made_features(later, categories=fitted.categories)
        references.write(made, saved / references.FEATURES, at=drift.TIME)
        stored = store.put(saved, allow=artifacts.MODEL_FORMATS)
    late, forecast = later["late"].to_numpy(dtype=bool), fitted.probability(features.columns_of(later))
    pngs = {"calibration": figures.calibration_png(late, forecast), "roc": figures.roc_png(late, forecast)}
    report = evaluate.evaluate(
        store.path(stored.digest), folder / "evaluate.parquet", against=common.stable_part(settings, "flights", "model")
    )
    return Trained(fitted=fitted, stored=stored, report=report, pngs=pngs)


def track(mlflow: Any, trained: Trained, source: parts.Made, params: Mapping[str, Any]) -> dict[str, str]:
    """Write the training into the MLflow run of the resource; returns the ids that are kept as provenance.

    They are no part of the bundle's identity: training again on the same data is another MLflow run of the same model.
    """
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes this class when it is imported

    from services.flights import model as models

    mlflow.log_params(dict(params))
    mlflow.log_metrics(trained.report["metrics"])
    for file, use in (("train.parquet", "training"), ("evaluate.parquet", "evaluation")):
        # MLflow's own digest looks at the first 10,000 rows only; its column holds 36 characters, which is just enough for this.
        digest = f"md5:{source.provenance['dvc'][file]}"
        origin = LocalArtifactDatasetSource(source.part.uri)
        used = MetaDataset(source=origin, name=f"flights {file}", digest=digest)  # type: ignore[abstract]  # only its declaration is
        mlflow.log_input(used, context=use)
    with tempfile.TemporaryDirectory() as scratch:
        for name, png in trained.pngs.items():
            (Path(scratch) / f"{name}.png").write_bytes(png)
        mlflow.log_artifacts(scratch, "plots")
    mlflow.log_dict(dict(trained.report), "evaluation.json")
    mlflow.set_tags({"lastgood.service": "flights", "lastgood.part.data": source.part.digest, "lastgood.part.model": trained.stored.digest})
    versions = trained.fitted.info["versions"]
    requirements = [f"{name}=={versions[name]}" for name in ("numpy", "scikit-learn", "skops")]
    logged = mlflow.sklearn.log_model(
        trained.fitted.estimator, name="model", skops_trusted_types=list(models.TRUSTED), pip_requirements=requirements
    )
    info = mlflow.active_run().info
    return {"run_id": info.run_id, "experiment_id": info.experiment_id, "model_id": logged.model_id, "model_uri": logged.model_uri}


def comparison(report: Mapping[str, Any]) -> dg.TableMetadataValue:
    """The report as a table: one metric a row, the new model beside the stable one on the same flights."""
    against = report["against"] or {"metrics": {}}
    names = sorted(report["metrics"])
    return show.table([{"metric": n, "this model": float(report["metrics"][n]), "stable": against["metrics"].get(n)} for n in names])


def verdict(report: Mapping[str, Any]) -> str:
    """One line on the paired comparison with the stable model; an interval around zero is said to show nothing."""
    if report["against"] is None:
        return str(report.get("not_compared", "nothing is stable yet"))
    paired = report["against"]["paired"]
    if paired["interval_95"] is None:
        return "too few days to compare"
    low, high = paired["interval_95"]
    better = {True: "better", False: "worse", None: "no difference shown"}[paired["better"]]
    return f"{better}: Brier score {paired['difference']:+.4f} (95 % {low:+.4f} to {high:+.4f}, {paired['rows']} flights of {paired['days']} days)"
