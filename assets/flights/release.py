"""The release: which bundle is stable, and what the gates say of the one on its way."""

from assets import common, gates, windows

release = common.release("flights", owners=["team:flights-on-call"])

drift = windows.drift("flights", owners=["team:flights-on-call"])

checks = gates.checks("flights")
