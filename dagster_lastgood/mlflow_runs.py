"""A training as a run in MLflow: parameters, data, metrics, plots, report and model, and the parts of its bundle."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_lastgood import parts
from lastgood.bundle import manifest

if TYPE_CHECKING:
    from dagster_lastgood.written_parts import Written

LogModel = Callable[[Any, Path], Any]
"""Receives `mlflow` and the stored folder of the part, and logs its model: `return mlflow.sklearn.log_model(…)`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """Marks the part as a training, for MLflow: how to log its model, if at all, and the use of each file (`data/train.parquet`)."""

    log_model: LogModel | None = None
    _: dataclasses.KW_ONLY
    datasets: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_down(
    context: dg.AssetExecutionContext,
    training: Training,
    written: "Written",
    part: manifest.Part,
    *,
    made_of: Mapping[str, parts.BuiltPart],
) -> dict[str, str]:
    """Record the training in the MLflow run of the resource; returns the ids that are kept as provenance.

    They are not part of the bundle's identity: training again on the same data gives another MLflow run of the same model.
    """
    from lastgood.bundle import store as bundle_store

    mlflow, store = context.resources.mlflow, bundle_store.Store(context.resources.settings.store)
    service = context.asset_key.path[0]
    report = written.evaluation
    mlflow.log_params(dict(written.params))
    if report is not None:
        mlflow.log_metrics(report["metrics"])
    for file, use in training.datasets.items():
        asset, _, name = file.partition("/")
        used = made_of[asset].part
        mlflow.log_input(_dataset(f"{service} {name}", used.uri, store.path(used.digest) / name), context=use)
    _log_plots(mlflow, written.plots)
    if report is not None:
        mlflow.log_dict(dict(report), "evaluation.json")
    digests = {f"lastgood.part.{one.name}": one.digest for one in (*(made.part for made in made_of.values()), part)}
    mlflow.set_tags({"lastgood.service": service, **digests})
    logged = training.log_model(mlflow, store.path(part.digest)) if training.log_model else None
    info = mlflow.active_run().info
    model = {"model_id": logged.model_id, "model_uri": logged.model_uri} if logged else {}
    return {"run_id": info.run_id, "experiment_id": info.experiment_id, **model}


def _dataset(name: str, uri: str, file: Path) -> Any:
    """The file as an MLflow data set: identified by the location of its part, and by its MD5, which DVC also uses as its name."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes this class when it is imported

    with file.open("rb") as opened:
        # MLflow's own digest covers only the first 10,000 rows; its column holds 36 characters, just enough for this one.
        digest = f"md5:{hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()}"
    return MetaDataset(source=LocalArtifactDatasetSource(uri), name=name, digest=digest)  # type: ignore[abstract]  # only its declaration is


def _log_plots(mlflow: Any, plots: Mapping[str, bytes]) -> None:
    if not plots:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, png in plots.items():
            (Path(scratch) / f"{name}.png").write_bytes(png)
        mlflow.log_artifacts(scratch, "plots")
