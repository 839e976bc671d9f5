"""Fits and saves the model "arrives at least 15 minutes late"."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lastgood import errors
from lastgood.bundle import store

from . import features
from . import model as models

RANDOM_STATE = 0


def fit(train: pd.DataFrame, params: Mapping[str, Any]) -> models.Model:
    """A model fitted on the labelled rows of *train* (columns of train.parquet) with the estimator's *params*.

    Departure time is read on the airport's clock. Raises UsageError if a feature has no value at all in *train*
    (the estimator would fail with a message about window shapes) or if the labels are all alike.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    late = train["late"].to_numpy(dtype=bool)
    if late.all() or not late.any():
        raise errors.UsageError(f"all {len(late)} training labels are alike; train on a window that has late and punctual flights")
    categories = {name: sorted(train[name].dropna().unique().tolist()) for name in features.CATEGORICAL}
    matrix = features.matrix(features.columns_of(train), categories=categories)
    empty = [name for name, absent in zip(features.FEATURES, np.isnan(matrix).all(axis=0), strict=True) if absent]
    if empty:
        raise errors.UsageError(f"features {empty} have no value in the training data; repair the data before training")
    estimator = HistGradientBoostingClassifier(
        categorical_features=list(range(len(features.CATEGORICAL))), early_stopping=False, random_state=RANDOM_STATE, **params
    )
    estimator.fit(matrix, late)
    return models.Model(
        estimator=estimator, categories=categories, info={**_info(late, categories, params), "window": features.window(train)}
    )


def save(fitted: models.Model, folder: Path) -> Path:
    """Write the model folder (model.skops, model.json) and return it. The same model gives the same bytes; never pickle."""
    import skops.io

    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(fitted.estimator, folder / models.WEIGHTS)
    store.normalise_skops(folder / models.WEIGHTS)
    (folder / models.INFO).write_text(json.dumps(dict(fitted.info), indent=1, sort_keys=True) + "\n", "utf-8")
    return folder


def _info(late: np.ndarray, categories: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    import sklearn
    import skops

    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "skops": skops.__version__,
    }
    return {
        "schema": models.SCHEMA,
        "features": list(features.FEATURES),
        "categories": dict(categories),
        "base_rate": float(late.mean()),
        "rows": len(late),
        "params": {**params, "early_stopping": False, "random_state": RANDOM_STATE},
        "versions": versions,
    }
