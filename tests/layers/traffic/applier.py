"""One apply in a process of its own, for tests that kill it: `python -m tests.layers.traffic.applier JSON`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lastgood.layers import base
from tests.layers.traffic.world import BY_ID, World


def main() -> None:
    """Apply the state that the argument describes."""
    asked = json.loads(sys.argv[1])
    world = World(Path(asked["folder"]))
    world.port = asked["port"]
    world.service = world.configured()
    world.ready = {digest: tuple(base.Endpoint(*place) for place in places) for digest, places in asked["ready"].items()}
    named = {alias: BY_ID[digest] if digest else None for alias, digest in asked["aliases"].items()}
    world.layer().apply(world.desired(asked["revision"], named.pop("stable"), **named))


if __name__ == "__main__":
    main()
