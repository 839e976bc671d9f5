"""The MLflow mirror does what every layer must do."""

import contextlib

import pytest

from lastgood.conformance import layers
from lastgood.layers import mlflow_base
from tests.layers.registry.conftest import A, B, make_desired
from tests.layers.registry.test_registry import exclusive


class RegistrySubject(layers.Subject):
    """A mirror on its own MLflow database; down means that somebody else holds the file."""

    def __init__(self, world):
        self.world = world
        self.layer = world.layer
        self.bundles = (A, B)
        self.outage = contextlib.ExitStack()

    def desired(self, revision, *, stable, previous=None):
        """What a ledger would say."""
        return make_desired(revision, stable=stable, previous=previous)

    def reopen(self):
        """A second layer object on the same database."""
        return self.world.make()

    def take_down(self):
        """Lock the file."""
        self.outage.enter_context(exclusive(self.world.db))

    def bring_up(self):
        """Unlock the file."""
        self.outage.close()

    def tamper(self):
        """Move the alias stable by hand."""
        other = self.world.client.get_model_version_by_alias("demo", "previous")
        self.world.client.set_registered_model_alias("demo", "stable", other.version)

    def serves(self):
        """What the alias stable names, read with SQL."""
        return self.world.aliases().get("stable")


class TestRegistry(layers.LayerSuite):
    """The suite, on MLflow."""

    @pytest.fixture
    def subject(self, world, monkeypatch):
        """A fresh mirror that gives up on a locked file quickly."""
        monkeypatch.setattr(mlflow_base, "BUSY_S", 0.1)
        made = RegistrySubject(world)
        yield made
        made.bring_up()
