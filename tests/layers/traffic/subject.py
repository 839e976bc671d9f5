"""The real Envoy as a subject of the conformance suite."""

from __future__ import annotations

import json

from lastgood.bundle.manifest import Bundle
from lastgood.conformance.layers import Subject
from lastgood.layers import base
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import layer as envoy
from tests.layers.traffic.world import SERVICE, A, B, World


class EnvoySubject(Subject):
    """Two bundles with a worker each behind one Envoy. Down means stopped on purpose: apply must not start it again."""

    bundles = (A, B)

    def __init__(self, world: World) -> None:
        self.world = world
        world.serve(A, B)
        world.start()
        self.layer = world.layer()

    def desired(self, revision: int, *, stable: Bundle | None, previous: Bundle | None = None) -> base.Desired:
        return self.world.desired(revision, stable, previous=previous)

    def reopen(self) -> base.Layer:
        return self.world.layer()

    def take_down(self) -> None:
        assert envoy.stop(self.world.settings, SERVICE)

    def bring_up(self) -> None:
        self.world.start()

    def tamper(self) -> None:
        """Somebody edits the routes: they go to the other bundle, in a file that Envoy likes."""
        path = envoy_files.files_of_service(self.world.settings, SERVICE).routes
        value = json.loads(path.read_bytes())
        entry = value["resources"][0]["virtual_hosts"][0]["routes"][-1]["route"]["weighted_clusters"]["clusters"][0]
        entry["name"] = envoy_config.safe_name(A.id)
        envoy_files.write(path, json.dumps(value).encode())

    def serves(self) -> str | None:
        return self.world.get().headers.get("x-lastgood-bundle")
