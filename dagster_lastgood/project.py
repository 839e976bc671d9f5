"""The project that a code location was loaded for: where it lies, and which services it declares."""

import os
from pathlib import Path

from lastgood import errors
from lastgood import settings as settings_
from lastgood.settings import Settings

DECLARATION = "service.yaml"


def root() -> Path:
    """The project folder, as every command of lastgood finds it; where that is refused, the working folder.

    That is not an error here: what is wrong must not keep the jobs, least of all `rollback`, from loading.
    """
    try:
        return settings_.find_project(os.environ)
    except errors.LastgoodError:
        return Path.cwd()


def settings() -> Settings | None:
    """The settings of the project; None if they cannot be read, which whoever uses them reports."""
    try:
        return settings_.load(root())
    except errors.LastgoodError:
        return None
