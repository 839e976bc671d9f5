"""The model of the flights service: one definition of features, honest evaluation, and the fault that it does not see."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lastgood import errors
from lastgood.service import schema
from services.flights import evaluate, features, figures, runtime, train
from services.flights import model as models
from tests.services import samples


@pytest.fixture(scope="module")
def march() -> pd.DataFrame:
    """The labelled flights of March, after the training window."""
    return samples.month(3)


@pytest.fixture
def served() -> runtime.Runtime:
    """The service's runtime around the small model, with the clock as in training."""
    return runtime.Runtime.load({"model": samples.model_folder()}, {"departure_clock": "local", "late_from": 0.4})


def test_training_and_serving_compute_the_same_probability(march: pd.DataFrame, served: runtime.Runtime) -> None:
    """A flight sent as a request gets exactly the probability that it has as a row of the training data."""
    from services.flights import replay

    rows = march.iloc[::900]
    requests = [served.Request.model_validate_json(replay.flight(row).body) for row in _plain(rows)]
    offline = samples.model().probability(features.columns_of(rows))
    assert [answer["probability"] for answer in served.predict(requests)] == offline.tolist()


def _plain(frame: pd.DataFrame) -> list[dict[str, object]]:
    whole = frame.astype(object).where(frame.notna(), None)
    rows = whole.to_dict("records")
    for row in rows:
        for name in ("plane_year", "seats"):
            row[name] = None if row[name] is None else int(row[name])
    return rows


def test_the_clock_is_the_only_difference_of_the_faulty_option(march: pd.DataFrame) -> None:
    """`utc` moves the departure by four or five hours, over midnight too, and touches no other feature."""
    columns = features.columns_of(march)
    local = features.matrix(columns, categories=samples.model().categories)
    utc = features.matrix(columns, categories=samples.model().categories, departure_clock="utc")
    moved = {"departure_min", "weekday", "plane_age"}
    for position, name in enumerate(features.FEATURES):
        same = np.array_equal(local[:, position], utc[:, position], equal_nan=True)
        assert same or name in moved
    minute = features.FEATURES.index("departure_min")
    assert set((utc[:, minute] - local[:, minute]) % 1440) == {240.0, 300.0}


def test_the_offset_in_which_a_moment_is_written_does_not_matter(served: runtime.Runtime) -> None:
    """05:15-05:00 and 10:15Z are one moment and get one answer."""
    known, _ = served.warm_up()
    answers = []
    for text in ("2013-01-01T05:15:00-05:00", "2013-01-01T10:15:00Z", "2013-01-01T19:15:00+09:00"):
        row = served.Request.model_validate_json(json.dumps({**known, "scheduled_departure": text}))
        answers += served.predict([row])
    assert answers[0] == answers[1] == answers[2]


def test_unseen_categories_and_unknown_numbers_get_an_answer(served: runtime.Runtime) -> None:
    """A new airline, a new airport and null weather are answered with a probability."""
    _, unknown = served.warm_up()
    row = served.Request.model_validate_json(json.dumps({**unknown, "carrier": "ZZ", "dest": "XXX"}))
    (answer,) = served.predict([row])
    assert 0 < answer["probability"] < 1
    assert answer["late"] is (answer["probability"] >= 0.4)


def test_the_faulty_clock_is_worse_on_labelled_flights_but_not_offline(march: pd.DataFrame) -> None:
    """The demo's fault is real: worse than its twin on March's flights, clustered by day; and its own evaluation cannot see it."""
    late = march["late"].to_numpy(dtype=bool)
    columns = features.columns_of(march)
    good, bad = (samples.model().probability(columns, departure_clock=clock) for clock in ("local", "utc"))
    compared = evaluate.paired(late, bad, good, days=evaluate.local_days(march))
    assert compared["better"] is False
    assert compared["difference"] > 0.002
    base = samples.model().info["base_rate"]
    assert evaluate.metrics(late, good, base_rate=base)["auc"] - evaluate.metrics(late, bad, base_rate=base)["auc"] > 0.02


def test_the_report_is_plain_json_and_compares_on_the_same_rows(march: pd.DataFrame, tmp_path: Path) -> None:
    """A report survives strict JSON, beats always saying the base rate, and finds a model equal to itself."""
    march.to_parquet(tmp_path / "evaluate.parquet")
    report = evaluate.evaluate(samples.model_folder(), tmp_path / "evaluate.parquet", against=samples.model_folder())
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["metrics"]["brier"] < report["metrics"]["base_rate_brier"]
    assert report["metrics"]["auc"] > 0.6
    assert report["against"]["metrics"] == report["metrics"]
    assert report["against"]["paired"]["difference"] == 0
    assert report["against"]["paired"]["better"] is None


def test_a_model_that_saw_the_window_is_not_compared_with(march: pd.DataFrame, tmp_path: Path) -> None:
    """A model trained on the evaluation's flights looks better; the report says so and draws no conclusion."""
    march.to_parquet(tmp_path / "evaluate.parquet")
    saw = train.save(train.fit(march, samples.SMALL), tmp_path / "saw")
    paired = evaluate.evaluate(samples.model_folder(), tmp_path / "evaluate.parquet", against=saw)["against"]["paired"]
    assert paired["in_sample"] is True
    assert paired["interval_95"][0] > 0
    assert paired["better"] is None


def test_a_model_of_other_features_is_not_compared_and_says_so(march: pd.DataFrame, tmp_path: Path) -> None:
    """After the features changed, the stable model cannot be asked about the new rows; the new one is still evaluated."""
    march.iloc[::50].to_parquet(tmp_path / "evaluate.parquet")
    other = tmp_path / "other"
    shutil.copytree(samples.model_folder(), other)
    info = json.loads((other / "model.json").read_text())
    info["features"] = ["something else"]
    (other / "model.json").chmod(0o600)
    (other / "model.json").write_text(json.dumps(info))
    report = evaluate.evaluate(samples.model_folder(), tmp_path / "evaluate.parquet", against=other)
    assert report["against"] is None
    assert "features" in report["not_compared"]
    assert report["metrics"]["auc"] > 0.5


def test_the_error_is_clustered_by_day() -> None:
    """Rows that repeat within a day do not make the estimate surer; counting them as independent would."""
    rng = np.random.default_rng(0)
    by_day = rng.normal(0, 0.1, 30)
    days = np.repeat(np.arange(30), 100)
    late = np.zeros(3000, dtype=bool)
    forecast = np.sqrt(0.3 + np.repeat(by_day, 100).clip(-0.2, 0.2))
    found = evaluate.paired(late, forecast, np.full(3000, np.sqrt(0.3)), days=days)
    daily = by_day.clip(-0.2, 0.2)
    assert found["difference"] == pytest.approx(daily.mean())
    assert found["standard_error"] == pytest.approx(daily.std(ddof=1) / np.sqrt(30), rel=1e-9)


def test_one_day_gives_no_error_and_no_verdict() -> None:
    """With a single cluster nothing can be said about the error, and nothing is."""
    found = evaluate.paired(np.array([True, False]), np.array([0.9, 0.1]), np.array([0.5, 0.5]), days=np.array([1, 1]))
    assert (found["standard_error"], found["interval_95"], found["better"]) == (None, None, None)


def test_labels_that_are_all_alike_have_no_auc() -> None:
    """AUC is left out where it has no value, instead of an invented number."""
    found = evaluate.metrics(np.zeros(3, dtype=bool), np.array([0.1, 0.2, 0.3]), base_rate=0.2)
    assert "auc" not in found
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.09) / 3)


def test_training_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """The same data and parameters give the same model folder, byte by byte."""
    again = train.save(train.fit(samples.month(1), samples.SMALL), tmp_path / "again")
    for name in (models.WEIGHTS, models.INFO):
        assert (again / name).read_bytes() == (samples.model_folder() / name).read_bytes()


def test_training_without_a_value_in_a_feature_names_it() -> None:
    """An all-empty column is refused by name before the estimator fails on it."""
    with pytest.raises(errors.UsageError, match=r"\['visib'\]"):
        train.fit(samples.month(1).assign(visib=np.nan), samples.SMALL)


def test_training_on_labels_that_are_all_alike_is_refused() -> None:
    """A window in which every flight was punctual teaches nothing."""
    frame = samples.month(1)
    with pytest.raises(errors.UsageError, match="labels are alike"):
        train.fit(frame[~frame["late"].astype(bool)], samples.SMALL)


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info.update(features=["carrier"]),
        lambda info: info.pop("categories"),
        lambda info: info.update(schema="flights.model/v9"),
    ],
)
def test_a_model_of_other_features_is_refused(change: object, tmp_path: Path) -> None:
    """A model folder that was made for other code does not load."""
    shutil.copytree(samples.model_folder(), tmp_path / "model")
    info = json.loads((tmp_path / "model" / models.INFO).read_text())
    change(info)
    (tmp_path / "model" / models.INFO).write_text(json.dumps(info))
    with pytest.raises(errors.Damaged):
        models.load(tmp_path / "model")


def test_wrong_options_are_named() -> None:
    """A misspelt option or clock ends the load with its name."""
    for options in ({"departure_clock": "gmt"}, {"departure_clok": "utc"}, {"late_from": 2.0}):
        with pytest.raises(errors.UsageError, match=next(iter(options))):
            runtime.Runtime.load({"model": samples.model_folder()}, options)


@pytest.mark.parametrize(
    ("outcome", "label"),
    [({"late": True}, 1.0), ({"late": False}, 0.0), ({"arr_delay_min": 15}, 1.0), ({"arr_delay_min": 14.9}, 0.0), ({"rebooked": 3}, None),
     ({"late": False, "arr_delay_min": 99}, 0.0)],
)  # fmt: skip
def test_a_label_comes_from_the_flag_or_the_delay(outcome: dict[str, object], label: float | None, served: runtime.Runtime) -> None:
    """`late` wins over `arr_delay_min`; business outcomes alone give no label."""
    assert served.label(outcome) == label


@pytest.mark.parametrize("outcome", [{"late": 1}, {"late": "yes"}, {"arr_delay_min": True}, {"arr_delay_min": "15"}])
def test_a_label_of_the_wrong_kind_is_refused(outcome: dict[str, object], served: runtime.Runtime) -> None:
    """A number for the flag or a text for the delay is an error that names the field."""
    with pytest.raises(ValueError, match=next(iter(outcome))):
        served.label(outcome)


def test_plots_are_small_pngs(march: pd.DataFrame) -> None:
    """Both plots are PNG files below 60 kB, and the same each time."""
    late = march["late"].to_numpy(dtype=bool)
    forecast = samples.model().probability(features.columns_of(march))
    for plot in (figures.calibration_png, figures.roc_png):
        png = plot(late, forecast)
        assert png.startswith(b"\x89PNG")
        assert len(png) < 60_000
        assert plot(late, forecast) == png


def test_the_frozen_configuration_holds_everything_the_runtime_imports(tmp_path: Path) -> None:
    """The config part is the effective settings and the code; freezing twice gives the same bytes, another option others."""
    folder = samples.PROJECT / "services" / "flights"
    one, two, other = (schema.freeze(folder, tmp_path / name, options=opts) for name, opts in
                       (("one", None), ("two", {}), ("other", {"departure_clock": "utc"})))  # fmt: skip
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted([schema.FILE, "runtime.py", "model.py", "features.py"])
    assert [(one / name).read_bytes() for name in names] == [(two / name).read_bytes() for name in names]
    assert schema.parse((other / schema.FILE).read_text(), where="test").options == {"departure_clock": "utc", "late_from": 0.4}
    assert (other / "features.py").read_bytes() == (one / "features.py").read_bytes()
    assert "log_flush_s: 1.0" in (one / schema.FILE).read_text()


def test_daylight_saving_is_followed() -> None:
    """10:15Z is 05:15 at the airport on 9 March 2013 and 06:15 a day later."""
    moments = [datetime.datetime(2013, 3, day, 10, 15, tzinfo=datetime.UTC) for day in (9, 10)]
    columns = {name: ["UA", "UA"] for name in features.CATEGORICAL} | {name: [1.0, 1.0] for name in ("plane_year", *features.NUMERIC)}
    categories = {name: ["UA"] for name in features.CATEGORICAL}
    found = features.matrix({**columns, "scheduled_departure": moments}, categories=categories)
    assert found[:, features.FEATURES.index("departure_min")].tolist() == [315.0, 375.0]
