"""Checks of tables from what is expected of them: which fail, and what they show."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from dagster_lastgood import data_checks, written_parts
from lastgood.testing import projects

pytestmark = pytest.mark.timeout(200)

SECRET = "AKIA" + "Q" * 16


def suite() -> list[Any]:
    """Small numbers, and a known label."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(column="size", max_value=10, meta={"check": "ranges"}),
        gxe.ExpectColumnValuesToNotBeNull(column="label", meta={"check": "nulls"}),
    ]


def more(frame: pd.DataFrame) -> Iterable[data_checks.Row]:
    """No secret."""
    return [data_checks.no_secret(frame, text="note", named="name")]


def written(out: Path) -> None:
    """Two tables, of which the second has a size out of range and a secret."""
    usual = {"name": ["a", "b"], "note": ["hello", "there"], "label": [0, 1]}
    pd.DataFrame({**usual, "size": [1, 2]}).to_parquet(out / "train.parquet")
    pd.DataFrame({**usual, "size": [1, 200], "note": ["hello", f"key {SECRET}"]}).to_parquet(out / "later.parquet")


def test_each_check_holds_its_expectations_against_every_table(tmp_path: Path) -> None:
    """What failed names its table; a secret is located and not repeated; a check that nothing belongs to has not passed."""
    described = {"ranges": "Small.", "nulls": "Known.", "secrets": "None.", "typo": "Nothing belongs to it."}
    tables = data_checks.parquet("train", "later")
    checks = data_checks.checks("toy", "data", described, tables=tables, suite=suite, more=more)
    made = written_parts.part("toy", "data", written, owners=[])
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([made, checks], resources={"settings": projects.project(tmp_path)}, instance=instance, raise_on_error=False)
    found = {one.check_name: one for one in done.get_asset_check_evaluations()}
    assert {name: one.passed for name, one in found.items()} == {"ranges": False, "nulls": True, "secrets": False, "typo": False}
    (row,) = found["ranges"].metadata["results"].records
    assert (row.data["table"], row.data["column"]) == ("later", "size")
    assert "b, line 1" in str(found["secrets"].metadata["results"])
    assert SECRET not in str(found["secrets"].metadata)
    assert not done.success


def test_a_feature_that_is_known_later_or_tells_the_label_is_named() -> None:
    """Beside those that do neither."""
    frame = pd.DataFrame({"label": [0, 1] * 20, "same": [1] * 40, "tells": [0.0, 1.0] * 20})
    rows = data_checks.no_giveaway(frame, features=["same", "tells", "delay"], label="label", known_later=["delay"])
    assert {row["column"]: row["passed"] for row in rows} == {"": False, "same": True, "tells": False}
    assert "delay" in rows[0]["found"]
