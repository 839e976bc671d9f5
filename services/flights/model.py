"""The model folder (model.skops, model.json), and probabilities from it. Frozen with the configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lastgood import artifacts, errors

from . import features

SCHEMA = "flights.model/v1"
WEIGHTS = "model.skops"
INFO = "model.json"

TRUSTED = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)
"""Types beyond skops' own list that this estimator consists of. Ours, not the file's: a file may not name its own trust."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fitted classifier with what one must know to feed it. `info` is the content of model.json."""

    estimator: Any
    categories: Mapping[str, Sequence[str]]
    info: Mapping[str, Any]

    def probability(self, columns: Mapping[str, Sequence[Any]], *, departure_clock: features.Clock = "local") -> np.ndarray:
        """P(arrives at least 15 minutes late), float64 of shape (rows,), for columns by `features.FIELDS`."""
        matrix = features.matrix(columns, categories=self.categories, departure_clock=departure_clock)
        return np.asarray(self.estimator.predict_proba(matrix)[:, 1], dtype=np.float64)


def load(folder: Path) -> Model:
    """The model of *folder*. Raises Damaged if it was made for other features than these."""
    try:
        info = json.loads((folder / INFO).read_text("utf-8"))
        made_for = (info["schema"], tuple(info["features"]), set(info["categories"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.Damaged(f"{folder / INFO} cannot be read: {error!r}; train the model again") from error
    if made_for != (SCHEMA, features.FEATURES, set(features.CATEGORICAL)):
        raise errors.Damaged(
            f"{folder / INFO} was made for features {info['features']}, this code has {list(features.FEATURES)}; train again"
        )
    return Model(estimator=artifacts.load_skops(folder / WEIGHTS, trusted=TRUSTED), categories=info["categories"], info=info)
