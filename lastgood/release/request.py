"""Who requests a change of what serves, why, and on which state they decided: the same for every verb and every caller.

What does not belong here: what is requested (the verbs' own parameters), whether it is allowed (`core`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import ledger
from lastgood.core.state import State


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Who requests a change, why, and the state that the service must be in; any other state is a Conflict that names the difference."""

    actor: str
    reason: str
    expected: int | None = None
    """The revision that the service must be at."""
    planned: State | None = None
    """The state that a plan was made on: the same bundles must be stable and candidate, at whatever revision."""
    automatic: bool = False
    """Decided without a person: it yields to any change that was faster."""
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The evidence that led to the request, stored with the revision."""
    fence: ledger.Fence | None = None
    """Proof of holding the right to decide for the service, required of every automatic request."""
