"""The application in a folder of its own, on free ports: a stack that runs in the clone is not disturbed."""

from __future__ import annotations

from pathlib import Path

from bench import application
from lastgood import testing

PORTS = {"flights": 8380, "helpdesk": 8381}


def copy(to: Path) -> dict[str, int]:
    """Copy it into the new folder *to*; the port of each service there."""
    application.copy(to)
    return {service: move(to / "services" / service / "service.yaml", port=port) for service, port in PORTS.items()}


def move(manifest: Path, *, port: int) -> int:
    """Give the service of *manifest*, which says *port*, a free one, and return that."""
    text = manifest.read_text("utf-8")
    assert f"port: {port}" in text
    found = testing.free_port()
    manifest.write_text(text.replace(f"port: {port}", f"port: {found}"), "utf-8")
    return found
