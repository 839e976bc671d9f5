"""What a ledger would say of a service, for layers that look at nothing but aliases and bundles."""

from __future__ import annotations

from collections.abc import Sequence

from lastgood.bundle import manifest as bundles
from lastgood.layers import base
from lastgood.service import schema as service

SERVICE = "demo"
CONFIGURATION = {"schema": service.SCHEMA, "service": SERVICE, "tier": "rag", "owner": "nobody", "traffic": {"port": 18082}}


def desired(
    known: Sequence[bundles.Bundle], revision: int, *, stable: bundles.Bundle | None, previous: bundles.Bundle | None = None
) -> base.Desired:
    """The state in which these are stable and previous; *known* are all bundles that it may name."""
    return base.Desired(
        service=service.Service.model_validate(CONFIGURATION),
        revision=revision,
        stable=stable.id if stable else None,
        previous=previous.id if previous else None,
        bundles={one.id: one for one in known},
    )
