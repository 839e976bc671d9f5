"""The service `flights`: data, model, configuration and environment, frozen into one bundle."""

from assets.flights import bundle, checks, data, expectations, model, source
from dagster_lastgood import Service, part_assets

OWNERS = ["team:flights-on-call"]
CODE = ["services/flights/service.yaml", "services/flights/runtime.py", "services/flights/features.py"]

SERVICE = Service(
    name="flights",
    owners=OWNERS,
    source=source.source,
    made=[
        data.data,
        model.model,
        part_assets.config("flights", owners=OWNERS, code=CODE),
        part_assets.environment("flights", owners=OWNERS),
        bundle.bundle,
    ],
    checks=checks.ALL,
    build="build",
    expectations=expectations.live,
    expected={
        "schema": "Requests have exactly the fields that are known.",
        "nulls": "No field has more gaps than it ever had.",
        "ranges": "Numbers are in their units' range.",
        "categories": "Airports and airlines have codes, origins are the three known.",
    },
)
