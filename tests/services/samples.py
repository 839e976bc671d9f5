"""Real flights, prepared once for the whole run, and a small model trained on some of them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from services.flights import model as models
from services.flights import prepare, tables, train

PROJECT = Path(__file__).parents[2]
SMALL = {"learning_rate": 0.1, "max_iter": 8, "max_leaf_nodes": 15, "min_samples_leaf": 50}


def params() -> dict[str, Any]:
    """params.yaml of the project."""
    return yaml.safe_load((PROJECT / "params.yaml").read_text("utf-8"))


@functools.cache
def folder() -> Path:
    """A folder that lives as long as the test run."""
    found = Path(tempfile.mkdtemp(prefix="lastgood-samples-"))
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found


@functools.cache
def prepared() -> Path:
    """The monthly files, as the `prepare` stage writes them."""
    out = folder() / "prepared"
    prepare.prepare(**params()["prepare"], out=out)
    return out


def month(number: int) -> pd.DataFrame:
    """The labelled flights of a month."""
    frame = pd.read_parquet(tables.month_file(prepared(), number))
    return frame[frame["late"].notna()].reset_index(drop=True)


@functools.cache
def model_folder() -> Path:
    """A small model of January's flights, saved as a model part is."""
    return train.save(train.fit(month(1), SMALL), folder() / "model")


@functools.cache
def model() -> models.Model:
    """That model, loaded."""
    return models.load(model_folder())
