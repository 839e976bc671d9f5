"""A workers layer over real processes of a small fake worker, and a world that is cleaned up."""

import itertools
import sys
import time
from pathlib import Path

import pytest

from lastgood.bundle import manifest
from lastgood.layers import base
from lastgood.layers.infrastructure.local import layer as local_layer
from lastgood.service import schema
from lastgood.settings import Settings

FAKE = Path(__file__).with_name("fake_worker.py")
SERVICE = "demo"


def digest_of(n):
    """A digest that is easy to tell from others."""
    return "sha256:" + f"{n:x}" * 64 if n < 16 else manifest.sha256(str(n).encode())


class World:
    """One service's home, its clock (hands move only when told), and what its workers shall do."""

    def __init__(self, root, *, ready_timeout_s=30.0):
        self.settings = Settings(project=root / "project", home=root / "home")
        self.behaviour_folder = root / "behaviour"
        self.behaviour_folder.mkdir()
        self.offset_s = 0.0
        self.ready_timeout_s = ready_timeout_s
        self._revisions = itertools.count(1)
        self.layer = self.make()

    def clock(self):
        """Unix time in seconds, moved by the test."""
        return time.time() + self.offset_s

    def make(self, **kwargs):
        """A layer of its own on the same home, as another process would have."""
        return local_layer.Workers(
            self.settings,
            SERVICE,
            command=kwargs.pop("command", self.command),
            clock=self.clock,
            patience_s=kwargs.pop("patience_s", 20),
            **kwargs,
        )

    def command(self, digest, socket):
        """The argv of the fake worker."""
        return [sys.executable, str(FAKE), "--service", SERVICE, "--bundle", digest, "--socket", str(socket)]

    def desired(self, stable=None, candidate=None, previous=None, *, control=False, revision=None):
        """What a ledger would say."""
        return base.Desired(
            service=schema.Service.model_validate(
                {
                    "schema": schema.SCHEMA,
                    "service": SERVICE,
                    "tier": "real-time-api",
                    "owner": "nobody",
                    "traffic": {"port": 18080},
                    "serving": {"ready_timeout_s": self.ready_timeout_s},
                }
            ),
            revision=next(self._revisions) if revision is None else revision,
            stable=stable,
            candidate=candidate,
            previous=previous,
            control=control,
            weights={stable: 100.0} if stable else {},
        )

    def behave(self, digest, words):
        """Tell the workers of *digest* what to do; "" for normal."""
        (self.behaviour_folder / manifest.short(digest)).write_text(words)

    def worker(self, digest):
        """What the layer says about the worker of *digest*."""
        return self.layer.observe().facts["workers"].get(digest)

    def converged(self, desired):
        """Whether the layer agrees with *desired* now."""
        return self.layer.verify(desired, self.layer.observe())

    def until_failed(self, desired, digest, *, failures=1, patience_s=0.3):
        """Apply until the worker of *digest* has failed so often, as fast as this machine is; what the layer complained of then."""
        quick, complaint = self.make(patience_s=patience_s), None

        def failed():
            nonlocal complaint
            try:
                quick.apply(desired)
            except base.LayerError as error:
                complaint = str(error)
            return (self.worker(digest) or {}).get("failures", 0) >= failures and complaint

        return self.until(failed, seconds=90)

    def until(self, condition, *, seconds=20):
        """Poll until *condition* holds and return its value."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "deadline passed"
            time.sleep(0.02)
        return value


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A fresh world; its workers are ended with the test."""
    monkeypatch.setenv("LASTGOOD_FAKE_BEHAVIOUR", str(tmp_path / "behaviour"))
    monkeypatch.delenv("LASTGOOD_HOME", raising=False)
    made = World(tmp_path)
    yield made
    made.layer.stop_all(grace_s=0.1)


A, B, C, D = (digest_of(n) for n in (10, 11, 12, 13))
