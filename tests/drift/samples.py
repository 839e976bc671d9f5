"""Samples for the tests of drift: rows that depend on their day, and changes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lastgood.drift.reference import Sample

DAY_S = 86_400.0


def days(count: int, *, per_day: int = 100, seed: int = 1, spread: float = 0.0, first: int = 0, shift: float = 0.0) -> Sample:
    """*count* days of rows with two numbers and a category; all rows of a day share an offset of standard deviation *spread*.

    *shift* moves the number `x`.
    """
    draw = np.random.default_rng(seed)
    rows = count * per_day
    at = (first + np.repeat(np.arange(count), per_day)) * DAY_S + np.tile(np.linspace(0, DAY_S, per_day, endpoint=False), count)
    offset = np.repeat(draw.normal(0, spread, size=count) if spread else np.zeros(count), per_day)
    columns: dict[str, Any] = {
        "x": draw.normal(size=rows) + offset + shift,
        "y": draw.exponential(size=rows) + offset,
        "kind": draw.choice(np.array(["a", "b", "c"], dtype=object), p=[0.6, 0.3, 0.1], size=rows),
    }
    return Sample(at=at, columns=columns)


def changed(sample: Sample, **columns: Any) -> Sample:
    """*sample* with columns replaced; None removes one."""
    kept = {**sample.columns, **columns}
    return dataclasses.replace(sample, columns={name: values for name, values in kept.items() if values is not None})
