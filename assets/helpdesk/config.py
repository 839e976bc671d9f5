"""The configuration part: service.yaml with the code it names, as a bundle is to be served with."""

from assets import common, parts

KEY = parts.key("helpdesk", "config")

config = common.config(
    "helpdesk",
    owners=["team:helpdesk-on-call"],
    code=[f"services/helpdesk/{name}" for name in ("service.yaml", "runtime.py", "retrieval.py", "pins.py", "signals.py")],
)
