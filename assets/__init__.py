"""What is versioned: one folder per service, one file per part of its bundle.

Each folder exposes `definitions()` with its assets, checks and build job. A file says what an asset is called, what
it depends on and what the UI shows of it; how a part is made stands in `services/<name>` and in `lastgood`.
"""

import importlib
import pkgutil
import warnings
from pathlib import Path

import dagster as dg

# Steps import what is below when they run. By then Dagster has taken the folder that it loaded this code from off the path.
import services  # noqa: F401

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # what of Dagster may change, the lock file holds still

PROJECT = Path(__file__).resolve().parent.parent


def names() -> list[str]:
    """The services that have a folder here, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def definitions() -> dg.Definitions:
    """The definitions of all services together."""
    return dg.Definitions.merge(*(importlib.import_module(f"{__name__}.{name}").definitions() for name in names()))


def release_key(service: str) -> dg.AssetKey:
    """The asset whose data version says which bundle of *service* is stable."""
    return dg.AssetKey([service, "release"])
