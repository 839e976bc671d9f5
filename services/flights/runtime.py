"""How a bundle of this service is loaded and answers: the code that is frozen with the configuration."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from lastgood import errors
from lastgood.serving import runtime

from . import features
from . import model as models

Code = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=8, pattern=r"^[A-Z0-9]+$")]


EARLIEST = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
LATEST = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


def number(low: float, high: float) -> Any:
    """A finite number from *low* to *high*; outside it the unit is wrong, or the sensor is."""
    return pydantic.Field(ge=low, le=high, allow_inf_nan=False)


class Flight(pydantic.BaseModel):
    """One flight, before it departs. Every field must be there; where null is allowed it means "not known"."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    carrier: Code
    """Two-character airline code."""
    origin: Code
    """Airport of departure: EWR, JFK or LGA."""
    dest: Code
    """Airport of arrival."""
    scheduled_departure: Annotated[pydantic.AwareDatetime, pydantic.Field(ge=EARLIEST, le=LATEST)]
    """RFC 3339 with offset; the moment counts, not the offset it is written in."""
    distance: Annotated[float, number(1, 20_000)]
    """Miles."""
    plane_year: Annotated[int, pydantic.Field(ge=1900, le=2100)] | None
    """Year in which the aircraft was built."""
    seats: Annotated[int, pydantic.Field(ge=1, le=1000)] | None
    temp: Annotated[float, number(-130, 140)] | None
    """Fahrenheit, at the origin, in the hour before the scheduled departure hour; so the rest of the weather."""
    humid: Annotated[float, number(0, 110)] | None
    """Relative humidity, percent."""
    wind_speed: Annotated[float, number(0, 2000)] | None
    """Miles per hour."""
    precip: Annotated[float, number(0, 50)] | None
    """Inches."""
    pressure: Annotated[float, number(800, 1100)] | None
    """Millibars at sea level."""
    visib: Annotated[float, number(0, 200)] | None
    """Miles."""


class Options(pydantic.BaseModel):
    """`options` of service.yaml."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    departure_clock: Literal["local", "utc"] = "local"
    late_from: Annotated[float, number(0, 1)] = 0.4


class Runtime(runtime.Runtime):
    """Answers with the probability of arriving at least 15 minutes late."""

    Request = Flight

    def __init__(self, model: models.Model, options: Options) -> None:
        self._model = model
        self._options = options

    @classmethod
    def load(cls, parts: Mapping[str, Path], options: Mapping[str, Any]) -> Runtime:
        """Load the model part. Raises Damaged for a model of other features, UsageError for wrong options."""
        try:
            checked = Options.model_validate(dict(options))
        except pydantic.ValidationError as error:
            raise errors.UsageError(f"options of service 'flights' are wrong: {error}; correct the named key") from error
        return cls(models.load(parts["model"]), checked)

    def predict(self, rows: Sequence[pydantic.BaseModel]) -> list[dict[str, Any]]:
        """For each row {"probability": float, "late": bool}."""
        columns = {name: [getattr(row, name) for row in rows] for name in features.FIELDS}
        probability = self._model.probability(columns, departure_clock=self._options.departure_clock).tolist()
        return [{"probability": value, "late": value >= self._options.late_from} for value in probability]

    def features(self, rows: Sequence[pydantic.BaseModel]) -> dict[str, list[float]]:
        """The numbers that the model sees, by name: with another clock, the departure is another one."""
        columns = {name: [getattr(row, name) for row in rows] for name in features.FIELDS}
        matrix = features.matrix(columns, categories=self._model.categories, departure_clock=self._options.departure_clock)
        return {name: matrix[:, place].tolist() for place, name in enumerate(features.FEATURES)}

    def label(self, outcome: Mapping[str, Any]) -> float | None:
        """1.0 for late, 0.0 for not: from `late` (true or false) or `arr_delay_min` (minutes, negative if early)."""
        late, delay = outcome.get("late"), outcome.get("arr_delay_min")
        if late is not None and not isinstance(late, bool):
            raise ValueError("'late' must be true or false")
        if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int | float)):
            raise ValueError("'arr_delay_min' must be a number of minutes")
        if late is None and delay is not None:
            late = delay >= features.LATE_MIN
        return None if late is None else float(late)

    def warm_up(self) -> list[dict[str, Any]]:
        """A flight with everything known and one with nothing known but what must be."""
        unknown = dict.fromkeys(features.FIELDS)
        known = {"carrier": "UA", "origin": "EWR", "dest": "IAH", "scheduled_departure": "2013-01-01T05:15:00-05:00", "distance": 1400.0}
        numbers = {
            "plane_year": 1999,
            "seats": 149,
            "temp": 39.0,
            "humid": 64.4,
            "wind_speed": 12.7,
            "precip": 0.0,
            "pressure": 1011.9,
            "visib": 10.0,
        }
        return [{**known, **numbers}, {**unknown, **known}]
