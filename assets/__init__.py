"""What is versioned: one folder per service, whose `SERVICE` defines what Dagster shows of it.

A folder has one file for each part that this project makes in its own way; the rest comes from dagster_lastgood.
"""

import importlib
import pkgutil

# Steps import what is below when they run. By then the folder that Dagster loaded this code from is no longer on the path.
import services as _services  # noqa: F401
from dagster_lastgood import Service


def services() -> list[Service]:
    """The services that have a folder here, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return [importlib.import_module(f"{__name__}.{name}").SERVICE for name in names]
