"""What a ledger would say of a service, for layers that look at nothing but aliases and bundles."""

from __future__ import annotations

from collections.abc import Sequence

from lastgood.bundle import manifest
from lastgood.layers import base
from lastgood.service import schema

SERVICE = "demo"
CONFIGURATION = {"schema": schema.SCHEMA, "service": SERVICE, "tier": "rag", "owner": "nobody", "traffic": {"port": 18082}}


def desired(
    known: Sequence[manifest.Bundle], revision: int, *, stable: manifest.Bundle | None, previous: manifest.Bundle | None = None
) -> base.Desired:
    """The state in which these are stable and previous; *known* are all bundles that it may name."""
    return base.Desired(
        service=schema.Service.model_validate(CONFIGURATION),
        revision=revision,
        stable=stable.id if stable else None,
        previous=previous.id if previous else None,
        bundles={one.id: one for one in known},
    )
