"""Fourteen columns with only the requested properties: independent rows, or rows that share something with their day."""

from __future__ import annotations

from typing import Any

import numpy as np

from lastgood.drift.reference import Sample
from lastgood.service.drift import DAY_S

NUMBERS, CATEGORIES = 11, 3


def sample(rows: int, *, seed: int, spread: float = 0.0, shift: float = 0.0, per_day: int = 500) -> Sample:
    """Fourteen columns; rows of one day share offsets of standard deviation *spread*, and the first column is moved by *shift*."""
    draw = np.random.default_rng(seed)
    day = np.arange(rows) // per_day
    at = day * DAY_S + (np.arange(rows) % per_day) * DAY_S / per_day
    columns: dict[str, Any] = {}
    for number in range(NUMBERS):
        offset = draw.normal(0, spread, int(day[-1]) + 1)[day] if spread else 0.0
        columns[f"n{number}"] = draw.normal(size=rows) + offset + (shift if number == 0 else 0.0)
    for number, kinds in zip(range(CATEGORIES), (2, 4, 20), strict=True):
        columns[f"c{number}"] = draw.integers(0, kinds, rows).astype(str).astype(object)
    return Sample(at=at.astype(np.float64), columns=columns)
