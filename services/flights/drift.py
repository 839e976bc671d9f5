"""What live flights are held beside: those of the months after training, which the model has not seen either.

What does not belong here: what counts as drift (`service.yaml`), and the statistics (`lastgood.drift`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from services.flights import features

if TYPE_CHECKING:
    import pandas as pd

TIME = "scheduled_departure"
"""When a flight is."""


def reference(flights: pa.Table) -> pa.Table:
    """The fields of a request, of the types that the log has for them, and `label`; of a prepared table of labelled flights."""
    fields = flights.select(list(features.FIELDS))
    for name in ("plane_year", "seats"):
        fields = fields.set_column(fields.column_names.index(name), name, fields[name].cast(pa.int64()))
    return fields.append_column("label", pc.cast(flights["late"], pa.float64()))


def made_features(flights: pd.DataFrame, *, categories: Mapping[str, Sequence[str]]) -> pa.Table:
    """What training makes of the same flights: the numbers that the model sees, and when the flight is."""
    matrix = features.matrix(features.columns_of(flights), categories=categories)
    columns = {name: pa.array(matrix[:, place]) for place, name in enumerate(features.FEATURES)}
    return pa.table({TIME: pa.array(flights[TIME].array.to_pydatetime(), pa.timestamp("us", tz="UTC")), **columns})
