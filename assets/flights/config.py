"""The configuration part: service.yaml with the code it names, as a bundle is to be served with."""

from assets import common, parts

KEY = parts.key("flights", "config")

config = common.config(
    "flights",
    owners=["team:flights-on-call"],
    code=["services/flights/service.yaml", "services/flights/runtime.py", "services/flights/features.py"],
)
