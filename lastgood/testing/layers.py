"""In-memory layers, for tests of code that drives layers. They pass the suite of every real adapter.

Each has a switch: while `failure` holds an error, every method raises it, like a layer that is down. `served` (`aliases`,
`workers`) is the world itself: read it to see what was done, change it to simulate external changes.

What does not belong here: rules of releases (`core`), real processes (`layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lastgood.layers import base

Ready = Callable[[], Mapping[str, tuple[base.Endpoint, ...]]]


class _Memory(base.Layer):
    """The common base of the three: the switch, the revision last taken over, and the number of changes."""

    def __init__(self) -> None:
        self.failure: base.LayerError | None = None
        self.revision = 0
        self.changes = 0

    def observe(self) -> base.Observed:
        self._check()
        return base.Observed(revision=self.revision, facts=self._facts())

    def apply(self, desired: base.Desired) -> None:
        self._check()
        if desired.revision < self.revision:
            return
        before = self.revision, self._facts()
        self._follow(desired)
        self.revision = desired.revision
        self.changes += before != (self.revision, self._facts())

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        if observed.revision is None:
            return None
        return observed.revision == desired.revision and self._agrees(desired, observed.facts)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _facts(self) -> dict[str, object]:
        raise NotImplementedError

    def _follow(self, desired: base.Desired) -> None:
        raise NotImplementedError

    def _agrees(self, desired: base.Desired, facts: Mapping[str, object]) -> bool:
        raise NotImplementedError


class MemoryTraffic(_Memory, base.Traffic):
    """Weights in a dict. Given *endpoints*, it refuses to send traffic to a bundle without a ready worker."""

    name = "traffic"
    randomizes = "request"

    def __init__(self, endpoints: Ready | None = None) -> None:
        super().__init__()
        self._endpoints = endpoints
        self.served: dict[str, float] = {}
        self.mirror: tuple[str, float] | None = None

    def _facts(self) -> dict[str, object]:
        return {"weights": dict(self.served), "mirror": self.mirror}

    def _follow(self, desired: base.Desired) -> None:
        ready = self._endpoints() if self._endpoints else None
        for digest, weight in desired.weights.items():
            if ready is not None and weight and not ready.get(digest):
                raise base.LayerError(f"no ready worker for {digest!r}; traffic was not moved; start one first")
        self.served, self.mirror = dict(desired.weights), desired.mirror

    def _agrees(self, desired: base.Desired, facts: Mapping[str, object]) -> bool:
        return facts["weights"] == dict(desired.weights) and facts["mirror"] == desired.mirror


class MemoryInfrastructure(_Memory, base.Processes):
    """Workers in a dict. They are ready at once, except those of the bundles in `never_ready`."""

    name = "infrastructure"

    def __init__(self, *, never_ready: Iterable[str] = ()) -> None:
        super().__init__()
        self.never_ready = set(never_ready)
        self.workers: dict[str, base.Endpoint] = {}
        self._port = 20_000

    def endpoints(self) -> Mapping[str, tuple[base.Endpoint, ...]]:
        self._check()
        return {digest: (endpoint,) for digest, endpoint in self.workers.items() if digest not in self.never_ready}

    def _facts(self) -> dict[str, object]:
        return {"workers": {digest: digest not in self.never_ready for digest in self.workers}}

    def _follow(self, desired: base.Desired) -> None:
        kept = {digest: endpoint for digest, endpoint in self.workers.items() if digest in desired.warm}
        for digest in desired.warm:
            if digest not in kept:
                self._port += 1
                kept[digest] = base.Endpoint("127.0.0.1", self._port)
        self.workers = kept

    def _agrees(self, desired: base.Desired, facts: Mapping[str, object]) -> bool:
        return facts["workers"] == dict.fromkeys(desired.warm, True)


class MemoryRegistry(_Memory):
    """Aliases in a dict, `{"stable": bundle id, …}`."""

    name = "registry"

    def __init__(self) -> None:
        super().__init__()
        self.aliases: dict[str, str] = {}

    def _facts(self) -> dict[str, object]:
        return {"aliases": dict(self.aliases)}

    def _follow(self, desired: base.Desired) -> None:
        self.aliases = dict(desired.aliases)

    def _agrees(self, desired: base.Desired, facts: Mapping[str, object]) -> bool:
        return facts["aliases"] == desired.aliases
