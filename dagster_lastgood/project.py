"""The project that a code location was loaded for: its folder, and the services that it declares."""

import os
from pathlib import Path

from lastgood import errors
from lastgood import settings as settings_
from lastgood.settings import Settings

DECLARATION = "service.yaml"


def root() -> Path:
    """The project folder, found as by every lastgood command; if that fails, the working folder.

    That is not an error here: a broken project must not keep the jobs, `rollback` above all, from loading.
    """
    try:
        return settings_.find_project(os.environ)
    except errors.LastgoodError:
        return Path.cwd()


def settings() -> Settings | None:
    """The settings of the project; None if they cannot be read, which is reported where they are used."""
    try:
        return settings_.load(root())
    except errors.LastgoodError:
        return None
