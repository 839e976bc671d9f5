"""The thread that keeps one layer of one service in agreement with the newest desired state.

What does not belong here: what is desired (`layers.desired`), one attempt at a layer (`layers.reconcile`), which threads exist (`loop`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from lastgood.layers import base, receipts, reconcile
from lastgood.settings import Settings

log = logging.getLogger("lastgood.controller")


class LayerLoop(threading.Thread):
    """Keeps one layer of one service in agreement with the newest desired state passed to it."""

    def __init__(
        self, settings: Settings, layer: base.Layer, *, service: str, followed: Callable[[receipts.Receipt], None] = lambda receipt: None
    ) -> None:
        """*followed* is called with each receipt of the layer, in this thread."""
        super().__init__(name=f"{service}/{layer.name}", daemon=True)
        self._followed = followed
        self._settings = settings.controller
        self._reports = settings.run(service) / "layers"
        self._layer = layer
        self._wanted: base.Desired | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.busy_since: float | None = None
        self.turned_at = time.monotonic()

    def want(self, desired: base.Desired) -> None:
        """Pass in the newest desired state; an older one that is still waiting is dropped, on purpose."""
        self._wanted = desired
        self._wake.set()

    @property
    def due_s(self) -> float:
        """The next turn is due within this many seconds, unless the layer hangs."""
        return self._settings.resync_s + self._settings.layer_timeout_s

    def end(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self.turned_at = time.monotonic()
            self._wake.clear()
            wanted = self._wanted
            pause = self._settings.resync_s
            if wanted is not None:
                receipt = self._once(wanted)
                failures = 0 if receipt.status == "converged" else failures + 1
                if failures:
                    pause = min(backoff(failures, self._settings.backoff_max_s), self._settings.resync_s)
            self._wake.wait(pause)
        self._layer.close()

    def _once(self, wanted: base.Desired) -> receipts.Receipt:
        self.busy_since = time.monotonic()
        try:
            receipt = reconcile.attempt(self._layer, wanted)
        finally:
            self.busy_since = None
        receipts.write(self._reports, receipt)
        self._followed(receipt)
        if receipt.status != "converged":
            log.warning("%s revision %s: %s: %s", self.name, wanted.revision, receipt.status, receipt.detail)
        return receipt


def backoff(failures: int, longest_s: float) -> float:
    """Seconds to wait before the next attempt: full jitter over a doubling range that starts at 0.2 s."""
    return random.uniform(0.05, min(longest_s, 0.1 * 2.0 ** min(failures, 20)))  # noqa: S311  # jitter, not a secret
