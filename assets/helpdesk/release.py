"""The release: which bundle is stable, and what the gates say of the one on its way."""

from assets import common, gates

release = common.release("helpdesk", owners=["team:helpdesk-on-call"])

checks = gates.checks("helpdesk")
