"""The traffic layer on Envoy: routes and clusters on disk, watched by Envoy, acknowledged through its admin socket.

Make before break. New clusters are written first and must be warm and healthy; then the routes are replaced in one rename, and the
change counts only when Envoy itself reports the new version; unused clusters are removed with the next change, because requests in
flight may still be retried in them. If only routes change, as in a rollback to a warm bundle, one file is written and Envoy
follows within milliseconds.

What does not belong here: the content of the documents (`config`), the process (`process`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lastgood import errors
from lastgood.layers import base
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.layers.traffic.envoy import drain as envoy_drain
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import process as envoy_process
from lastgood.layers.traffic.envoy.config import RoutePlan
from lastgood.layers.traffic.envoy.documents import Json
from lastgood.layers.traffic.envoy.files import Files
from lastgood.layers.traffic.envoy.process import Running, running, start, start_if_down, stop
from lastgood.settings import Settings
from lastgood.system import failpoints, processes

__all__ = ["EnvoyTraffic", "Running", "build", "running", "start", "start_if_down", "stop"]

APPLY_S = 10.0
"""Seconds that `apply` waits for workers to pass Envoy's health check; the loop then tries again."""
ACK_S = 3.0
"""Seconds within which Envoy has accepted or refused a document; it needs 1 to 25 ms."""
REFUSAL_LOOK_S = 0.03
READY_FRESH_S = 0.5

_STEP_S = 0.001
_WAIT_STEP_S = 0.02

ReadyWorkers = Callable[[], Mapping[str, tuple[base.Endpoint, ...]]]


def build(settings: Settings, service: str, endpoints: ReadyWorkers) -> EnvoyTraffic:
    """The traffic layer of *service*; *endpoints* returns where ready workers answer, by bundle id. Has no side effects yet."""
    return EnvoyTraffic(settings=settings, service=service, endpoints=endpoints)


class EnvoyTraffic(base.Traffic):
    """One service's Envoy. Several processes may apply at once: a lock file orders them, the higher revision wins."""

    name = "traffic"
    randomizes = "user"

    def __init__(self, *, settings: Settings, service: str, endpoints: ReadyWorkers) -> None:
        self._settings = settings
        self._service = service
        self._files = envoy_files.files_of_service(settings, service)
        self._endpoints = endpoints
        self._open: envoy_admin.Admin | None = None
        self._envoy: tuple[int, dict[str, Any]] | None = None
        self._ready: tuple[float, Mapping[str, tuple[base.Endpoint, ...]] | None] = (float("-inf"), None)

    def observe(self) -> base.Observed:
        """What Envoy serves at present. An Envoy that does not answer gives revision None, which never counts as agreement."""
        record = processes.read(self._files.record)
        if record is None or not processes.alive(record):
            return base.Observed(revision=None, facts={"envoy": None})
        if processes.stopped(record):
            trouble = (
                f"envoy (pid {record.pid}) was stopped by a signal and does not answer; the controller or 'lastgood up' starts another one"
            )
            return base.Observed(revision=None, facts={"envoy": None, "trouble": trouble})
        why = envoy_process.unreachable(self._files)
        if why:
            trouble = (
                f"envoy (pid {record.pid}) answers requests but cannot be reconfigured: {why} 'lastgood up' or the controller restarts it"
            )
            return base.Observed(
                revision=None,
                facts={"envoy": {"pid": record.pid, "port": record.facts.get("port"), "reachable": False}, "trouble": trouble},
            )
        self._files.touch_admin()
        with _borders(self._files):
            served, hosts, tags = self._admin.served(), self._admin.hosts(), self._admin.tags()
            if self._envoy is None or self._envoy[0] != record.pid:
                self._envoy = record.pid, self._admin.info()
        named = {name: envoy_config.mark_of(cluster).get("bundle") for name, cluster in self._files.read_clusters().items()}
        facts = {
            "version": served.version if served else None,
            "weights": _percentages(served.weights if served else {}, named),
            "clusters": {
                name: {"tag": tag, "hosts": [dataclasses.asdict(host) for host in hosts.get(name, ())]} for name, tag in tags.items()
            },
            "ejected": sorted(host.address for found in hosts.values() for host in found if host.ejected),
            "envoy": {"pid": record.pid, "port": record.facts.get("port"), "version": self._envoy[1]["version"]},
            "randomizes": self.randomizes,
        }
        return base.Observed(revision=served.revision if served else None, facts=facts)

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if routes and clusters are exactly what *desired* requires with the workers that are ready now."""
        if observed.revision is None:
            return None
        if observed.revision != desired.revision:
            return False
        plan = self._plan(desired, fresh=False)
        tags = {name: found["tag"] for name, found in observed.facts["clusters"].items()}
        return (
            observed.facts["version"] == plan.routes["version_info"]
            and observed.facts["weights"] == plan.weights
            and all(tags.get(name) == _tag(cluster) for name, cluster in plan.clusters.items())
            and self._files.read_routes() == plan.routes
            and {**self._files.read_clusters(), **plan.clusters} == self._files.read_clusters()
        )

    def apply(self, desired: base.Desired) -> None:
        """Make Envoy follow *desired*; does nothing if it serves a newer revision. Restarts it if it has crashed.

        Raises LayerError "no ready worker" with routes untouched if a bundle that should get traffic cannot answer,
        Rejected if Envoy refuses the configuration; then the previous one is back on disk and keeps serving.
        """
        end = time.monotonic() + APPLY_S
        while True:
            with _borders(self._files), processes.locked(self._files.lock, wait_s=envoy_process.LOCK_WAIT_S):
                waits_for = self._advance(desired)
            if waits_for is None:
                return
            if time.monotonic() >= end:
                raise base.LayerError(f"no ready worker: {waits_for} after {APPLY_S:g} s; traffic was not moved; see the worker's log")
                # Not under the lock: a rollback that arrives now must not wait for a worker that never becomes healthy.
            time.sleep(_WAIT_STEP_S)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def start_up(self, desired: base.Desired) -> None:
        """Start Envoy, or adopt the running one. Raises what `process.start` raises."""
        start(self._settings, self._service, desired.service)

    def shut_down(self) -> str:
        """Stop Envoy once it has answered its requests, and report those cut off; afterwards nothing answers on the port."""
        active = envoy_drain.drain(self._files) if running(self._settings, self._service) else 0
        stop(self._settings, self._service)
        return envoy_drain.cut_off_sentence(active)

    @property
    def _admin(self) -> envoy_admin.Admin:
        path = self._files.admin
        if self._open is None or self._open.path != path:
            self.close()
            self._open = envoy_admin.Admin(path)
        return self._open

    def _plan(self, desired: base.Desired, *, fresh: bool) -> RoutePlan:
        if fresh or time.monotonic() - self._ready[0] > READY_FRESH_S:
            self._ready = time.monotonic(), self._ask_ready()
        return envoy_config.plan(
            dataclasses.replace(desired, salt=self._salt(desired)),
            ready=self._ready[1],
            now=self._files.read_clusters(),
            token=envoy_files.debug_token(self._settings, make=False),
        )

    def _salt(self, desired: base.Desired) -> str:
        """The salt of the release; none if an older release began the split, or started the proxy: no user changes sides midway."""
        if not desired.salt or not self._files.knows_users():
            return ""
        on_disk = self._files.read_routes()
        begun_bare = on_disk is not None and desired.candidate is not None and envoy_config.splits_bare(on_disk, arm=desired.candidate)
        return "" if begun_bare else desired.salt

    def _ask_ready(self) -> Mapping[str, tuple[base.Endpoint, ...]] | None:
        """Ready workers; None if the infrastructure layer is down, which must not prevent a rollback of traffic."""
        try:
            return self._endpoints()
        except base.LayerError:
            return None

    def _advance(self, desired: base.Desired) -> str | None:
        """One pass under the lock; None when done, else what it is waiting for."""
        envoy_process.revive(self._files)
        served, on_disk = self._admin.served(), self._files.read_routes()
        newest = max(_revision(served.version if served else None), _revision(on_disk["version_info"] if on_disk else None))
        if desired.revision < newest:
            return None
        plan = self._plan(desired, fresh=True)
        if plan.unready:
            named = ", ".join(envoy_config.cluster_name(digest) for digest in plan.unready)
            raise base.LayerError(f"no ready worker for {named}; traffic was not moved; see the worker's log, or wait until one is started")
        tags = self._make(plan, on_disk=on_disk, revision=desired.revision)
        if self._moved(plan, served=served, on_disk=on_disk):
            waits_for = self._unhealthy(plan, tags=tags)
            if waits_for is not None:
                return waits_for
            self._move(plan, before=on_disk)
            self._drop_unused(plan, left=on_disk, revision=desired.revision)
        else:
            self._drop_unused(plan, left=None, revision=desired.revision)
        self._keep(plan)
        return None

    # --- clusters ------------------------------------------------------------------------------------------

    def _make(self, plan: RoutePlan, *, on_disk: Json | None, revision: int) -> Mapping[str, str]:
        """Add and change clusters; remove none. Returns the tags of those that are then active."""
        now = self._files.read_clusters()
        every = {**now, **plan.clusters}
        if on_disk is None or not envoy_config.same_shape(on_disk, plan.routes, clusters=now, more=every):
            envoy_process.try_out(self._files, routes=plan.routes, clusters=every)
        tags = self._admin.tags()
        if every == now and not self._lost(every, tags=tags):
            return tags
        failpoints.failpoint("traffic.before_cds")
        self._write_clusters(every, revision=revision)
        failpoints.failpoint("traffic.after_cds")
        return self._admin.tags()

    def _lost(self, wanted: Mapping[str, Json], *, tags: Mapping[str, str]) -> bool:
        """True if Envoy's list of clusters differs from the one on disk: it was modified by someone else."""
        if all(tags.get(name) == _tag(cluster) for name, cluster in wanted.items()):
            return False
        return self._admin.clusters_version() != self._files.clusters_version()

    def _drop_unused(self, plan: RoutePlan, *, left: Json | None, revision: int) -> None:
        """Remove clusters that are not needed.

        The bundles of *left*, the routes just replaced, stay until the next change: requests in flight may still have to be retried there.
        """
        now = self._files.read_clusters()
        wanted = {**envoy_config.reachable(left or {}, clusters=now), **plan.clusters}
        if now != wanted:
            self._write_clusters(wanted, revision=revision)

    def _write_clusters(self, wanted: Mapping[str, Json], *, revision: int) -> None:
        """Replace the list of clusters and wait until Envoy has accepted it. Raises Rejected, with the old list restored."""
        path = self._files.clusters
        before = path.read_bytes() if path.exists() else None
        document = envoy_documents.make(list(wanted.values()), revision=revision)
        self._replace("cds", document, before=before, served=self._admin.clusters_version)

    def _unhealthy(self, plan: RoutePlan, *, tags: Mapping[str, str]) -> str | None:
        """What a cluster that must answer still lacks; None if all can answer."""
        if not plan.needed:
            return None
        hosts = self._admin.hosts()
        for name in plan.needed:
            safe = f"{name}.safe"
            if tags.get(name) != _tag(plan.clusters[name]) or tags.get(safe) != _tag(plan.clusters[safe]):
                return f"{name} is still warming up"
            if not any(host.healthy for host in hosts.get(name, ())):
                return f"no worker of {name} passes the health check"
        return None

    # --- routes --------------------------------------------------------------------------------------------

    def _moved(self, plan: RoutePlan, *, served: envoy_admin.Served | None, on_disk: Json | None) -> bool:
        """True if the routes have to be written: disk or Envoy differ from the plan."""
        wanted = plan.routes
        if served is None or served.version != wanted["version_info"] or on_disk != wanted:
            return True
        return served.weights != envoy_config.weights_of(wanted)

    def _move(self, plan: RoutePlan, *, before: Json | None) -> None:
        failpoints.failpoint("traffic.before_rds")
        old = envoy_documents.dumps(before) if before is not None else None
        self._replace("rds", plan.routes, before=old, served=self._admin.version)
        failpoints.failpoint("traffic.after_rds")

    def _replace(self, kind: str, document: Json, *, before: bytes | None, served: Callable[[], str | None]) -> None:
        """Write *document* and wait until Envoy reports it in force. Raises Rejected with *before* restored."""
        path = self._files.routes if kind == "rds" else self._files.clusters
        refusals, since = self._admin.refusals(kind), envoy_process.log_size(self._files)
        envoy_files.write(path, envoy_documents.dumps(document))
        began = time.monotonic()
        refused = False
        while not refused and served() != document["version_info"]:
            waited = time.monotonic() - began
            if waited > ACK_S:
                raise base.LayerError(f"envoy did not confirm within {ACK_S:g} s that it loaded {path}; see {self._files.log}")
            refused = waited > REFUSAL_LOOK_S and self._admin.refusals(kind) > refusals
            time.sleep(_STEP_S)
        # Of a list of clusters Envoy takes the good ones and the new version, but still counts the refusal.
        if refused or (kind == "cds" and self._admin.refusals(kind) > refusals):
            if before is not None:
                envoy_files.write(path, before)
            why = envoy_process.reason(self._files, since=since)
            raise base.Rejected(
                f"envoy rejected {path.name}: {why}; version {self._admin.version()!r} keeps serving; report this and attach that file"
            )

    def _keep(self, plan: RoutePlan) -> None:
        """Store the pair that Envoy has accepted, for a start without a ledger."""
        clusters = envoy_files.read(self._files.clusters)
        with contextlib.suppress(errors.Damaged, FileNotFoundError):
            if self._files.read_kept() == (plan.routes, clusters):
                return
        self._files.keep(routes=plan.routes, clusters=clusters)


def _tag(cluster: Json) -> str:
    return envoy_config.mark_of(cluster)["tag"]


def _revision(version: str | None) -> int:
    found = envoy_documents.revision_of(version)
    return -1 if found is None else found


def _percentages(weights: Mapping[str, int], named: Mapping[str, str | None]) -> dict[str, float]:
    """Cluster weights as percentages by bundle id; by cluster name where the cluster is not one of ours."""
    total = sum(weights.values()) or 1
    return {named.get(name) or name: share * 100 / total for name, share in weights.items()}


@contextlib.contextmanager
def _borders(files: Files) -> Iterator[None]:
    """Everything that prevents Envoy from being queried or started is a failure of this layer, and of no other."""
    try:
        with envoy_process.borders(files):
            yield
    except (errors.UsageError, errors.Damaged) as error:
        raise base.LayerError(str(error)) from error
