"""The environment part: which locked packages, interpreter and platform a bundle was built with."""

from assets import common, parts

KEY = parts.key("flights", "environment")

environment = common.environment("flights", owners=["team:flights-on-call"])
