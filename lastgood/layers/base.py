"""The contract of a layer: observe, apply, verify.

A layer is level-triggered. It is given the whole desired state each time, compares it with what it
sees, and changes what differs; applying twice is the same as applying once, and a missed call is harmless.
It never decides which bundle should serve, and it never writes to the ledger.

Every adapter passes the suite in `lastgood.conformance.layers`; `lastgood.testing` contains an in-memory twin.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from lastgood import errors
from lastgood.bundle import manifest as bundles
from lastgood.core import arms
from lastgood.service import schema


class LayerError(errors.LastgoodError):
    """A layer could not be made to agree this time; the loop records that and tries again later."""

    retryable = True


class Rejected(LayerError):
    """The layer refused the configuration itself; retrying with the same one will not help."""

    retryable = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The ledger's requirements for one service, in the form that layers consume.

    `weights` maps arm to its share of live traffic in percent and sums to 100, or is empty when nothing may serve (an arm is a
    bundle id or the control arm of one, see `core.arms`); the newest bundle comes first, so that a user who is in at 5 % is still in
    at 20 %. `control` means that the workers of stable's control arm are needed, whether or not it has a share yet. `salt` is the
    secret that decides which user gets which arm in this release, empty where there is none: a traffic layer hashes users with it,
    and never reveals it. `mirror` is (bundle id, percent of requests copied to it) or None. `spares` are kept warm while `previous`
    cannot be. `bundles` contains every bundle named. `service` is the configuration frozen in the stable bundle (the folder's own
    before the first release).
    """

    service: schema.Service
    revision: int
    stable: str | None = None
    candidate: str | None = None
    previous: str | None = None
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    salt: str = dataclasses.field(default="", repr=False)
    mirror: tuple[str, float] | None = None
    control: bool = False
    spares: tuple[str, ...] = ()
    bundles: Mapping[str, bundles.Bundle] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.service

    @property
    def aliases(self) -> dict[str, str]:
        """The aliases that are set, by name."""
        named = {"stable": self.stable, "candidate": self.candidate, "previous": self.previous}
        return {alias: digest for alias, digest in named.items() if digest is not None}

    @property
    def warm(self) -> tuple[str, ...]:
        """Arms whose workers must be ready, most important first, without repeats."""
        control = arms.control_of(self.stable) if self.control and self.stable else None
        return tuple(dict.fromkeys(d for d in (self.stable, self.candidate, control, self.previous, *self.spares) if d is not None))

    def arm(self, arm: str) -> Literal["stable", "candidate", "control"]:
        """The value of `x-lastgood-arm` for answers of *arm*."""
        if arm != arms.bundle_of(arm):
            return "control"
        return "candidate" if arm == self.candidate and arm != self.stable else "stable"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a layer sees. `revision` is the ledger revision it last took over, None if unknown.

    `facts` is for people and JSON: plain values only.
    """

    revision: int | None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Layer(abc.ABC):
    """One independent layer of one service. Methods raise LayerError (or a subclass) and nothing else on purpose."""

    name: str

    @abc.abstractmethod
    def observe(self) -> Observed:
        """The present state; changes nothing; takes seconds at most."""

    @abc.abstractmethod
    def apply(self, desired: Desired) -> None:
        """Make the layer agree with *desired*; idempotent; never returns to an older revision."""

    @abc.abstractmethod
    def verify(self, desired: Desired, observed: Observed) -> bool | None:
        """True: agrees. False: differs. None: unknown (which never counts as agreement)."""

    def close(self) -> None:  # noqa: B027  # most layers hold nothing
        """Close connections; what the layer manages keeps running."""

    def start_up(self, desired: Desired) -> None:  # noqa: B027  # most layers run nothing
        """Start the processes that the layer runs itself, for `lastgood up`; no effect if they already run."""

    def shut_down(self) -> str | None:
        """End the processes the layer runs, for `lastgood down`, once their requests are answered; returns a text on requests cut off."""
        return None


Unit = Literal["request", "user"]
"""What an arm is assigned to: each request by itself, or each user once for a whole release."""


class Traffic(Layer):
    """A traffic layer also declares what it randomizes.

    With "user" a user stays on one side while the shares stay, and the candidate's users stay while its share grows; a request that
    names no user is still assigned by itself. An adapter that declares nothing randomizes requests.
    """

    randomizes: Unit = "request"


class Processes(Layer):
    """An infrastructure layer also reports where the ready workers of a bundle answer."""

    @abc.abstractmethod
    def endpoints(self) -> Mapping[str, tuple[Endpoint, ...]]:
        """Ready workers by arm; only those that have just passed their readiness check."""

    def troubles(self) -> Mapping[str, tuple[int, str]]:
        """By arm, for workers that could not be started: the number of consecutive failures, and the latest error."""
        return {}


class Readiness(NamedTuple):
    """A host's report on its workers: the arms that are ready, and what is wrong with others (see `Processes.troubles`)."""

    ready: Collection[str]
    troubles: Mapping[str, tuple[int, str]]


def readiness_of(processes: Processes) -> Readiness:
    """What this host reports, for `hosts.readiness.report`. Raises LayerError if that is unknown."""
    return Readiness(ready={arm for arm, where in processes.endpoints().items() if where}, troubles=processes.troubles())


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where one worker listens: on a Unix socket at `path`, else at `host` and `port`."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"
