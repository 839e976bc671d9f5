"""Damaged data is found, by the check that says what is wrong with it; and it stops the run before training."""

from collections.abc import Callable

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.flights import SERVICE, expectations
from dagster_lastgood import data_checks, leakage, parts, resources
from lastgood.bundle import store

pytestmark = pytest.mark.timeout(600)

Damage = Callable[[pd.DataFrame], pd.DataFrame]

DAMAGES: dict[str, tuple[str, Damage]] = {
    "a column is gone": ("schema", lambda f: f.drop(columns="visib")),
    "a column that is known only afterwards": ("schema", lambda f: f.assign(dep_delay=1.0)),
    "a flight stands twice": ("schema", lambda f: pd.concat([f, f.iloc[:1]])),
    "almost no rows": ("schema", lambda f: f.iloc[:100]),
    "a column is all empty": ("nulls", lambda f: f.assign(temp=np.nan)),
    "a column has more gaps than ever": ("nulls", lambda f: f.assign(humid=f["humid"].where(np.arange(len(f)) % 2 == 0))),
    "temperatures in kelvin": ("ranges", lambda f: f.assign(temp=(f["temp"] - 32) / 1.8 + 273.15)),
    "an aircraft of the future": ("ranges", lambda f: f.assign(plane_year=f["plane_year"].fillna(2031).clip(lower=2031))),
    "an airport that is not in New York": ("categories", lambda f: f.assign(origin=["XXX", *f["origin"].iloc[1:]])),
    "airlines by name": ("categories", lambda f: f.assign(carrier="Delta Air Lines")),
    "the delay itself as a feature": ("leakage", lambda f: f.assign(visib=f["arr_delay"].clip(0, 200))),
    "the label as a category": ("leakage", lambda f: f.assign(dest=np.where(f["late"], "AAA", "BBB"))),
}


@pytest.fixture(scope="module")
def flights(builds):
    """Three thousand real flights from all of the training window, with enough airports."""
    (made,) = builds.a.asset_materializations_for_node("flights__data")
    folder = store.Store(builds.settings.store).path(made.metadata["lastgood/digest"].value)
    return pd.read_parquet(folder / "train.parquet").sample(3000, random_state=0)


def failed(frame: pd.DataFrame) -> set[str]:
    """The checks that *frame* does not pass."""
    rows = data_checks.validate({"train": frame}, expectations.suite, more=expectations.giveaways)
    return {row["check"] for row in rows if not row["passed"]}


def test_real_flights_pass(flights):
    """Otherwise the cases below would prove nothing."""
    assert failed(flights) == set()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_by_the_check_of_its_kind(flights, damage):
    """Each kind of damage fails the check whose name says what to look for."""
    check, broken = DAMAGES[damage]
    assert check in failed(broken(flights))


def test_one_column_as_a_forecast_is_scored_like_anywhere_else(flights):
    """The leakage score is the area under the ROC curve, gaps lowest, as scikit-learn computes it."""
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score(flights["late"].astype(bool), flights["pressure"].fillna(-1e9))
    assert leakage.single_auc(flights["pressure"], flights["late"]) == pytest.approx(expected, abs=1e-12)


def test_broken_data_stops_the_run_before_a_model_is_trained(builds, flights, tmp_path):
    """The checks block: the data is stored and shown, nothing is trained on it."""

    @dg.asset(key=["flights", "data"])
    def data(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        for name in ("train", "evaluate"):
            flights.assign(temp=np.nan).to_parquet(tmp_path / f"{name}.parquet")
        stored = store.Store(builds.settings.store).put(tmp_path, allow=store.DATA_FORMATS)
        return parts.result(context, store.part(stored, name="data", media_type="x/y", meta={"train": [1]}), provenance={}, metadata={})

    (model,) = [asset for asset in SERVICE.assets() if asset.key == dg.AssetKey(["flights", "model"])]
    run = dg.materialize(
        [data, model, *SERVICE.checks],
        resources={"settings": builds.settings, "mlflow": resources.mlflow},
        raise_on_error=False,
    )
    assert not run.success
    assert {check.check_name for check in run.get_asset_check_evaluations() if not check.passed} == {"nulls"}
    assert run.asset_materializations_for_node("flights__data")
    assert not run.asset_materializations_for_node("flights__model")
