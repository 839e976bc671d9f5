"""The model part: a gradient-boosted classifier, and its evaluation on later months compared with the stable one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written, metadata
from lastgood.settings import Settings

CODE = ["services/flights/train.py", "services/flights/features.py", "services/flights/model.py", "params.yaml"]


class Hyperparameters(dg.Config):
    """Parameters of scikit-learn's HistGradientBoostingClassifier; missing ones are taken from params.yaml."""

    learning_rate: float | None = Field(default=None, gt=0)
    max_iter: int | None = Field(default=None, gt=0)
    max_leaf_nodes: int | None = Field(default=None, gt=1)
    min_samples_leaf: int | None = Field(default=None, gt=0)
    l2_regularization: float | None = Field(default=None, ge=0)


def model(out: Path, data: Path, stable: Path | None, facts: Mapping[str, Any], config: Hyperparameters, settings: Settings) -> Written:
    """Will a flight arrive at least 15 minutes late? Saved as skops, evaluated on the months after training."""

    import pandas as pd

    from lastgood.drift import reference
    from lastgood.system import yaml_errors
    from services.flights import drift, evaluate, features, figures, train

    params = yaml_errors.load((settings.project / "params.yaml").read_text("utf-8"), where="params.yaml")
    chosen = params["train"] | config.model_dump(exclude_none=True)
    fitted = train.fit(pd.read_parquet(data / "train.parquet"), chosen)
    train.save(fitted, out)
    later = pd.read_parquet(data / "evaluate.parquet")
    reference.write(drift.made_features(later, categories=fitted.categories), out / reference.FEATURES, at=drift.TIME)
    report = evaluate.evaluate(out, data / "evaluate.parquet", against=stable)
    late, forecast = later["late"].to_numpy(dtype=bool), fitted.probability(features.columns_of(later))
    plots = {"calibration": figures.calibration_png(late, forecast), "roc": figures.roc_png(late, forecast)}
    return Written(
        meta={"params": chosen, "train": facts["data"]["train"]},
        report=report,
        params=chosen,
        plots=plots,
        metadata={
            "calibration and ROC": metadata.pictures(plots),
            "evaluation": metadata.comparison(report["metrics"], (report["against"] or {"metrics": {}})["metrics"], of="this model"),
            "against stable": verdict(report),
        },
    )


def log_model(mlflow: Any, folder: Path) -> Any:
    """The estimator in MLflow's form of a model: as skops, with what it needs to run."""
    from services.flights import model as models

    fitted = models.load(folder)
    needs = [f"{name}=={fitted.info['versions'][name]}" for name in ("numpy", "scikit-learn", "skops")]
    return mlflow.sklearn.log_model(fitted.estimator, name="model", skops_trusted_types=list(models.TRUSTED), pip_requirements=needs)


def verdict(report: Mapping[str, Any]) -> str:
    """One line on the paired comparison with the stable model; an interval around zero is reported as showing nothing."""
    if report["against"] is None:
        return str(report.get("not_compared", "nothing is stable yet"))
    paired = report["against"]["paired"]
    if paired["interval_95"] is None:
        return "too few days to compare"
    low, high = paired["interval_95"]
    better = {True: "better", False: "worse", None: "no difference shown"}[paired["better"]]
    return f"{better}: Brier score {paired['difference']:+.4f} (95 % {low:+.4f} to {high:+.4f}, {paired['rows']} flights of {paired['days']} days)"
