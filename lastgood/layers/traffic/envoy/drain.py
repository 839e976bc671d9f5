"""How Envoy ends: it accepts no new connections, answers its current requests for as long as they may take, and then ends.

What does not belong here: ending the process (`process`), the draining of workers (`layers.infrastructure.local.drain`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from lastgood import errors
from lastgood.layers import base
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy.files import Files

MARGIN_S = 1.0
_ACTIVE = r"^http\.edge\.downstream_rq_active$"
_STEP_S = 0.05


def drain(files: Files, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> int | None:
    """How many requests are unanswered after all had time for it; None if Envoy does not report it. Returns early if none is left."""
    end = clock() + longest_s(_routes(files)) + MARGIN_S
    with contextlib.closing(envoy_admin.Admin(files.admin)) as admin:
        try:
            # From now on answers say "connection: close", or a kept connection would continue to bring requests.
            admin.ask("/healthcheck/fail", method="POST")
            admin.ask("/drain_listeners", method="POST")
            while (active := _active(admin)) and clock() < end:
                sleep(_STEP_S)
        except base.LayerError:
            return None
    return active


def longest_s(routes: Mapping[str, Any] | None) -> float:
    """The longest time-out of the routes in a document, in seconds; 0 if there is none."""
    hosts = [host for resource in (routes or {}).get("resources", []) for host in resource.get("virtual_hosts", [])]
    actions = [rule.get("route", {}) for host in hosts for rule in host.get("routes", [])]
    return max((float(action["timeout"].rstrip("s")) for action in actions if "timeout" in action), default=0.0)


def cut_off_sentence(active: int | None) -> str:
    """The result of `drain` as text; "" if nothing was cut off."""
    if active is None:
        return "the number of requests cut off is unknown: envoy no longer answered"
    return (
        f"{active} request{'' if active == 1 else 's'} had no answer in time and {'was' if active == 1 else 'were'} cut off"
        if active
        else ""
    )


def _routes(files: Files) -> Mapping[str, Any] | None:
    with contextlib.suppress(errors.Damaged):
        return files.read_routes()
    return None


def _active(admin: envoy_admin.Admin) -> int:
    found = admin.stats(_ACTIVE)
    return int(found[0].get("value", 0)) if found else 0
