"""The environment part: which locked packages, interpreter and platform a bundle was built with."""

from assets import common, parts

KEY = parts.key("helpdesk", "environment")

environment = common.environment("helpdesk", owners=["team:helpdesk-on-call"])
