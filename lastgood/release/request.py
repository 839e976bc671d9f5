"""Who asks for a change of what serves, why, and what they decided on: the same for every verb and for everybody who calls one.

What does not belong here: what is asked for (the verbs' own parameters), whether it is allowed (`core`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import ledger
from lastgood.core.state import State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who asks for a change, why, and where the service has to be for it; anything else is a Conflict that says what changed."""

    actor: str
    reason: str
    expected: int | None = None
    """The revision at which the service has to be."""
    planned: State | None = None
    """The state that a plan was made on: the same bundles have to be stable and candidate, at whatever revision."""
    automatic: bool = False
    """Decided without a person: it gives way to whoever was faster."""
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What led to it, for the revision."""
    fence: ledger.Fence | None = None
    """Proof of being the one who decides for the service, which whatever is automatic needs."""
