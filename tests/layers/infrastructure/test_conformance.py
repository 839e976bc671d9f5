"""The workers layer does what every infrastructure layer must do."""

import os
import signal

import pytest

from lastgood.bundle import manifest
from lastgood.conformance import layers
from lastgood.layers.infrastructure.local import layer as local_layer
from tests.layers.infrastructure.conftest import SERVICE


def make_bundle(answer):
    """A bundle that differs from others by *answer*."""
    digest = manifest.sha256(str(answer).encode())
    return manifest.bundle_of(SERVICE, manifest.Part(name="model", digest=digest, size=1, media_type="text/plain", uri=f"store:{digest}"))


class WorkersSubject(layers.Subject):
    """Real processes; down means that the folder of their records cannot be used."""

    def __init__(self, world):
        self.world = world
        self.bundles = (make_bundle(1), make_bundle(2))
        self.layer = self.reopen()
        self.folder = world.settings.run(SERVICE)
        self.aside = self.folder.with_name("aside")

    def desired(self, revision, *, stable, previous=None):
        """What a ledger would say."""
        return self.world.desired(stable.id if stable else None, previous=previous.id if previous else None, revision=revision)

    def reopen(self):
        """A second layer object on the same processes, without a drain time."""
        return self.world.make(drain_s=0)

    def take_down(self):
        """Put a file where the run folder should be."""
        self.folder.rename(self.aside)
        self.folder.write_text("")

    def bring_up(self):
        """Put the folder back."""
        if self.aside.exists():
            self.folder.unlink()
            self.aside.rename(self.folder)

    def tamper(self):
        """Kill every worker."""
        pids = [facts["pid"] for facts in self.layer.observe().facts["workers"].values()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.world.until(lambda: not self.layer.endpoints())


class TestWorkers(layers.ProcessesSuite):
    """The suite, on processes of this machine."""

    @pytest.fixture
    def subject(self, world):
        """A fresh layer over fake workers."""
        assert local_layer.Workers.name == "infrastructure"
        made = WorkersSubject(world)
        yield made
        made.bring_up()
