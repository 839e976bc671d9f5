"""Queries to a running Envoy over its admin socket, answered as small values. Changes nothing.

What does not belong here: the desired configuration (`config`), starting and stopping (`process`).
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood.layers import base
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.system import permissions


class Down(base.LayerError):
    """The admin socket does not answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The routes in force in Envoy: their version, and the weight of each cluster in hundredths of a percent."""

    version: str
    revision: int | None
    weights: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One worker as Envoy sees it. `healthy`: it passes the active health check; `ejected`: it was ejected because of its answers."""

    address: str
    healthy: bool
    ejected: bool


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, *, timeout_s: float) -> None:
        super().__init__("admin", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        if not permissions.is_own_folder(self._path.parent):
            raise PermissionError(f"{self._path.parent} is accessible to other users")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Admin:
    """The admin socket at *path*. One kept-alive connection; not for use by several threads at once."""

    def __init__(self, path: Path, *, timeout_s: float = 2.0) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(self, target: str, *, method: str = "GET") -> bytes:
        """The body of the answer. Raises Down if there is no answer in time."""
        for fresh in (self._connection is None, True):
            try:
                return self._ask(target, method)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # A kept connection may belong to an Envoy that has since been replaced.
                if fresh:
                    raise Down(f"envoy does not answer on {self.path}: {error}; start it with 'lastgood up'") from error
        raise AssertionError("unreachable")

    def _ask(self, target: str, method: str) -> bytes:
        if self._connection is None:
            self._connection = _Connection(self.path, timeout_s=self._timeout_s)
        self._connection.request(method, target)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise base.LayerError(
                f"envoy answered {answer.status} to {target!r}: {body[:200]!r}; read its log in the folder of {self.path}"
            )
        return body

    def _json(self, target: str) -> Any:
        try:
            return json.loads(self.ask(target))
        except ValueError as error:
            raise Down(
                f"envoy's answer to {target!r} is not JSON: {error}; check whether another program listens on {self.path}"
            ) from error

    def served(self) -> Served | None:
        """The routes in force, None before the first valid ones have been read."""
        found = self._json("/config_dump?resource=dynamic_route_configs").get("configs", [])
        if not found:
            return None
        version = found[0].get("version_info", "")
        weights = envoy_config.weights_of({"resources": [found[0].get("route_config", {})]})
        return Served(version=version, revision=envoy_documents.revision_of(version), weights=weights)

    def version(self) -> str | None:
        """Version of the routes in force."""
        found = self._json("/config_dump?resource=dynamic_route_configs&mask=version_info").get("configs", [])
        return found[0].get("version_info") if found else None

    def clusters_version(self) -> str | None:
        """Version of the newest accepted list of clusters; some of them may still be warming."""
        for part in self._json("/config_dump?mask=version_info").get("configs", []):
            if part.get("@type", "").endswith("ClustersConfigDump"):
                version: str | None = part.get("version_info")
                return version
        return None

    def tags(self) -> dict[str, str]:
        """Name to tag of each active (warm) cluster of ours: equal tags, equal definition."""
        found = self._json("/config_dump?resource=dynamic_active_clusters&mask=cluster.name,cluster.metadata").get("configs", [])
        marks = {entry["cluster"]["name"]: envoy_config.mark_of(entry["cluster"]) for entry in found}
        return {name: mark["tag"] for name, mark in marks.items() if "tag" in mark}

    def hosts(self) -> dict[str, tuple[Host, ...]]:
        """Workers of each active cluster."""
        found = self._json("/clusters?format=json").get("cluster_statuses", [])
        return {entry["name"]: tuple(_host(host) for host in entry.get("host_statuses", [])) for entry in found}

    def refusals(self, kind: str) -> int:
        """How many documents of *kind* (`rds` or `cds`) Envoy has refused so far, including unreadable ones."""
        found = self._json("/stats?filter=" + r"[.]" + kind + r"[.].*update_(rejected|failure)$&format=json").get("stats", [])
        return sum(entry.get("value", 0) for entry in found)

    def stats(self, pattern: str) -> list[dict[str, Any]]:
        """Entries of every counter and gauge whose name matches *pattern*, and of the histograms, with all their buckets."""
        found = self._json(f"/stats?format=json&histogram_buckets=detailed&filter={urllib.parse.quote(pattern, safe='')}")
        stats: list[dict[str, Any]] = found.get("stats", [])
        return stats

    def info(self) -> dict[str, Any]:
        """`version`, `state` and `uptime_s` of the process."""
        found = self._json("/server_info")
        version = found.get("version", "").split("/")
        return {
            "version": version[1] if len(version) > 1 else "",
            "state": found.get("state"),
            "uptime_s": int(found.get("uptime_current_epoch", "0s").rstrip("s") or 0),
        }


def _host(entry: Mapping[str, Any]) -> Host:
    address = entry.get("address", {})
    place = address.get("socket_address", {})
    status = entry.get("health_status", {})
    return Host(
        address=address["pipe"]["path"] if "pipe" in address else f"{place.get('address')}:{place.get('port_value')}",
        healthy=not status.get("failed_active_health_check", False),
        ejected=bool(status.get("failed_outlier_check", False)),
    )
