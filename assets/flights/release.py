"""The release: which bundle is stable, and what the gates say of the one on its way."""

from assets import common, gates, live, windows

release = common.release("flights", owners=["team:flights-on-call"])

drift = windows.drift("flights", owners=["team:flights-on-call"])

checks = gates.checks("flights")

live_checks = live.checks(
    "flights",
    {
        "schema": "Requests have exactly the fields that are known.",
        "nulls": "No field has more gaps than it ever had.",
        "ranges": "Numbers are in their units' range.",
        "categories": "Airports and airlines have codes, origins are the three known.",
    },
)
