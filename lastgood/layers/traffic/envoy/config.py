"""Envoy's configuration as plain JSON values: routes and clusters from a desired state. Pure.

There are two clusters per arm: `b-<hex12>` with its workers (`b-<hex12>-control` for a control arm), and `b-<hex12>.safe`, an
aggregate that falls over to the fallback bundle when those workers are gone. Routes give weight to the `.safe` one. A cluster is
rendered identically as long as nothing about it changes, so that Envoy leaves it, its connections and its ejections alone; this is
why `previous` looks exactly as it will look as stable, and a rollback changes routes only.

What does not belong here: files, sockets, processes; the order of writes (`layer`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lastgood.bundle.manifest import short
from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.traffic import headers as traffic_headers
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.layers.traffic.envoy import users
from lastgood.layers.traffic.envoy.documents import Json
from lastgood.service import timeouts
from lastgood.service.schema import HTTP_NAME, Service, Traffic

TOTAL = 10_000
"""Weights are given to Envoy in hundredths of a percent; a constant sum keeps users on their side of a split."""

IDLE_S, IDLE_MARGIN_S = 60.0, 5.0
"""Seconds without a byte after which a request is given up, for instance if its body does not arrive; at least this much longer than an
answer may take."""

ROUTES = "edge"
FEEDBACK = "/feedback"
MARK = "lastgood"
"""Key of the cluster metadata that holds the arm (a full bundle id) and a hash of the cluster's own definition."""

Endpoints = Mapping[str, tuple[base.Endpoint, ...]]

_TYPE = "type.googleapis.com/"
_CLUSTER = _TYPE + "envoy.config.cluster.v3.Cluster"
_ROUTES = _TYPE + "envoy.config.route.v3.RouteConfiguration"
_EXTENSIONS = _TYPE + "envoy.extensions."


def cluster_name(arm: str) -> str:
    """The cluster with the arm's own workers."""
    return f"b-{arms.label(arm)}"


def safe_name(arm: str) -> str:
    """The cluster that routes point to: the arm's workers, then those of its fallback."""
    return f"{cluster_name(arm)}.safe"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """Everything Envoy should have for one desired state.

    `clusters` by name; `routes` is the whole RDS document; `weights` its weight for each arm, in percent; `needed` are the clusters that
    must be able to answer before the routes may change; `unready` are the bundles that should get traffic and have no worker at all.
    """

    clusters: Mapping[str, Json]
    routes: Json
    weights: Mapping[str, float]
    needed: tuple[str, ...]
    unready: tuple[str, ...]


def plan(desired: base.Desired, *, ready: Endpoints | None, now: Mapping[str, Json], token: str) -> RoutePlan:
    """The plan for *desired*, given the *ready* workers and the clusters that Envoy has *now*.

    A bundle whose workers are not ready at the moment keeps its cluster: Envoy's own health checks guard it, and rebuilding it would
    lose their results. If it is unknown which are *ready* (None), those clusters are the only information. Raises Rejected for
    impossible weights or header names.
    """
    known = _addresses(now)
    ready = known if ready is None else ready
    where = {**known, **{digest: tuple(sorted(found)) for digest, found in ready.items() if found}}
    desired = dataclasses.replace(desired, weights=_without_lost_controls(desired.weights, known=where))
    split = {arm: share for arm, share in shares(desired.weights).items() if share}
    # A control arm is not waited for: its fallback is the bundle's own workers.
    weighted = [arm for arm in split if arm == arms.bundle_of(arm)]
    return RoutePlan(
        clusters=clusters(desired, endpoints=where),
        routes=envoy_documents.make([routes(desired, known=where, token=token)], revision=desired.revision),
        weights={arm: share * 100 / TOTAL for arm, share in split.items()},
        needed=tuple(cluster_name(arm) for arm in weighted),
        unready=tuple(arm for arm in weighted if not ready.get(arm)),
    )


def _without_lost_controls(weights: Mapping[str, float], *, known: Collection[str]) -> dict[str, float]:
    """*weights* with the share of a control arm that has no worker given to its bundle."""
    kept: dict[str, float] = {}
    for arm, share in weights.items():
        answering = arm if arm in known else arms.bundle_of(arm)
        kept[answering] = kept.get(answering, 0.0) + share
    return kept


def shares(weights: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers with the sum TOTAL in the given order; a weight above zero stays above zero. Raises Rejected."""
    if not weights:
        return {}
    if any(not weight >= 0 for weight in weights.values()) or abs(sum(weights.values()) - 100) > 1e-6:
        raise base.Rejected(f"weights {dict(weights)!r} are not percentages that sum to 100; correct the rollout's steps")
    whole = {digest: max(1, round(weight * TOTAL / 100)) if weight else 0 for digest, weight in weights.items()}
    largest = max(whole, key=lambda digest: whole[digest])
    whole[largest] += TOTAL - sum(whole.values())
    return whole


# --- clusters ----------------------------------------------------------------------------------------------


def clusters(desired: base.Desired, *, endpoints: Endpoints) -> dict[str, Json]:
    """The clusters of every bundle that *desired* names and that has *endpoints*, by name."""
    named = dict.fromkeys((*desired.weights, *desired.warm, *((desired.mirror[0],) if desired.mirror else ())))
    found: dict[str, Json] = {}
    for digest in (digest for digest in named if endpoints.get(digest)):
        trial = arms.bundle_of(digest) != desired.stable and desired.weights.get(digest, 0) > 0
        members = [arm for arm in _fall_over(digest, desired) if endpoints.get(arm)]
        own = _marked(_bundle_cluster(digest, endpoints[digest], trial=trial), digest)
        safe = _marked(_aggregate(safe_name(digest), [cluster_name(member) for member in members]), digest)
        found |= {own["name"]: own, safe["name"]: safe}
    return found


def _fall_over(arm: str, desired: base.Desired) -> tuple[str, ...]:
    """The clusters that answer as *arm*: its own workers, and the fallback if they are gone."""
    if arm != arms.bundle_of(arm):
        return (arm, *_fall_over(arms.bundle_of(arm), desired))
    fallback = {desired.candidate: desired.stable, desired.stable: desired.previous}.get(arm)
    return (arm, fallback) if fallback and fallback != arm else (arm,)


def mark_of(cluster: Mapping[str, Any]) -> Mapping[str, str]:
    """`{"bundle": full id, "tag": hash of the definition}` of one of our clusters; empty for any other."""
    mark = cluster.get("metadata", {}).get("filter_metadata", {}).get(MARK, {})
    return mark if isinstance(mark, Mapping) else {}


def _marked(cluster: Json, digest: str) -> Json:
    return {**cluster, "metadata": {"filter_metadata": {MARK: {"bundle": digest, "tag": envoy_documents.tag(cluster)}}}}


def _bundle_cluster(digest: str, endpoints: Sequence[base.Endpoint], *, trial: bool) -> Json:
    """The workers of one bundle, as one cluster.

    A worker is healthy only if it reports ready, and for this bundle: a restarting worker warms up without users, and when a worker
    dies, another bundle's may get its port.
    A *trial* bundle (a candidate with traffic) is ejected early and for long: its fallback is proven. Stable is ejected only when it
    plainly does not answer, and soon readmitted: there may be no other bundle.
    """
    name = cluster_name(digest)
    hosts = [{"endpoint": {"address": _address(endpoint)}} for endpoint in endpoints]
    return {
        "@type": _CLUSTER,
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0 if trial else 50}},
        "circuit_breakers": _limits(),
        "track_cluster_stats": {"per_endpoint_stats": True},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "2s",
                "no_traffic_interval": "0.5s",
                "no_traffic_healthy_interval": "2s",
                # One that has become ready is used at once: its fallback may be an older bundle.
                "unhealthy_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz", "receive": [{"text": arms.bundle_of(digest).encode().hex()}]},
            }
        ],
        "outlier_detection": _ejection(trial=trial),
    }


def _ejection(*, trial: bool) -> Json:
    """When Envoy itself ejects a worker, even if no other process is alive.

    A trial worker is ejected if 8 answers in a row fail, or if in one second it had 16 or more and 39 % of them failed. With
    a base rate of 1 % errors that happens by chance less than once in a million hours, whatever the traffic:

        8 in a row             1e-16 a request: 3.6e-9 an hour at 10,000 requests a second
        39 % of 16 or more     worst at 17 requests: P(Bin(17, 1 %) >= 7) = 1.8e-10 a second, 6.4e-7 an hour

    A worker that fails everything is ejected after 8 requests; one that fails half of them within 2 s in 76 % and within 3 s in
    93 % of all cases at 20 requests a second (its seconds must contain 16 to count), 94 % and 99 % at 40, 99 % at 100.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 8 if trial else 3,
        "consecutive_gateway_failure": 8 if trial else 5,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_5xx": 8 if trial else 20,
        "interval": "1s",
        "base_ejection_time": "600s" if trial else "10s",
        "max_ejection_time": "3600s" if trial else "60s",
        "max_ejection_percent": 100 if trial else 50,
        # With True a worker that passes its health check but answers 500 flaps in and out of rotation.
        "successful_active_health_check_uneject_host": not trial,
        "failure_percentage_threshold": 39,
        "enforcing_failure_percentage": 100 if trial else 0,
        "enforcing_failure_percentage_local_origin": 100 if trial else 0,
        "failure_percentage_minimum_hosts": 1,
        "failure_percentage_request_volume": 16,
        "enforcing_success_rate": 0,
    }


def _aggregate(name: str, members: Sequence[str]) -> Json:
    return {
        "@type": _CLUSTER,
        "name": name,
        "connect_timeout": "0.25s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _limits(),
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {"@type": _EXTENSIONS + "clusters.aggregate.v3.ClusterConfig", "clusters": list(members)},
        },
    }


def _limits() -> Json:
    """Envoy's default of three concurrent retries overflows at once when a worker dies; a budget does not."""
    budget = {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}
    return {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "retry_budget": budget}]}


def _addresses(now: Mapping[str, Json]) -> dict[str, tuple[base.Endpoint, ...]]:
    """Where the clusters that Envoy has send requests, by bundle."""
    found: dict[str, tuple[base.Endpoint, ...]] = {}
    for cluster in now.values():
        digest = mark_of(cluster).get("bundle")
        hosts = [host for group in cluster.get("load_assignment", {}).get("endpoints", []) for host in group["lb_endpoints"]]
        if digest and hosts:
            found[digest] = tuple(sorted(_endpoint(host["endpoint"]["address"]) for host in hosts))
    return found


def _address(endpoint: base.Endpoint) -> Json:
    if endpoint.path:
        return {"pipe": {"path": endpoint.path}}
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def _endpoint(address: Json) -> base.Endpoint:
    if "pipe" in address:
        return base.Endpoint(path=address["pipe"]["path"])
    return base.Endpoint(address["socket_address"]["address"], address["socket_address"]["port_value"])


# --- routes ------------------------------------------------------------------------------------------------


def routes(desired: base.Desired, *, known: Collection[str], token: str) -> Json:
    """The route configuration: debug choices, feedback, then everything by weight; 503 if nothing may serve.

    *known* are the bundles that have a cluster; *token* enables the choice of a bundle by header. Raises Rejected.
    """
    _check_names(desired.service.traffic)
    if not desired.weights:
        return nothing_serves(desired.name, revision=desired.revision)
    rules = _debug(desired, known=known, token=token) if token else []
    rules += _by_weight(desired, known=known, token=None)
    return _table(rules, revision=desired.revision, users_by=users.metadata(desired.service.traffic, salt=desired.salt))


def nothing_serves(service: str, *, revision: int) -> Json:
    """The route configuration of a service without a stable bundle: every request gets a 503 that contains the remedy."""
    text = f"no bundle serves {service!r}; promote one with 'lastgood promote {service} BUNDLE'"
    return _table([_answer({"prefix": "/"}, 503, text)], revision=revision)


def _table(rules: list[Json], *, revision: int, users_by: Mapping[str, str] = MappingProxyType({})) -> Json:
    ids = [header(name, f"%REQ({name})%", action="ADD_IF_ABSENT") for name in (traffic_headers.CALLER_ID, traffic_headers.REQUEST_ID)]
    # The log reads the revision here, because not every answer names it.
    known = {"metadata": {"filter_metadata": {MARK: {"revision": str(revision)}, users.FILTER: dict(users_by)}}}
    return {
        "@type": _ROUTES,
        "name": ROUTES,
        "validate_clusters": True,
        "most_specific_header_mutations_wins": True,
        "request_headers_to_add": [_set(traffic_headers.REVISION, str(revision))],
        "response_headers_to_remove": [traffic_headers.UNREADY, traffic_headers.FAILED_CHECK],
        "response_headers_to_add": [_set(traffic_headers.REVISION, str(revision)), *ids],
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{**rule, **known} for rule in rules]}],
    }


def same_shape(before: Mapping[str, Any], after: Mapping[str, Any], *, clusters: Mapping[str, Json], more: Mapping[str, Json]) -> bool:
    """True if documents differ only in names, addresses, weights, salt and revision, which cannot make Envoy refuse them.

    *before* and *after* are route documents, *clusters* and *more* the clusters that go with them. A document of the same shape as
    one that Envoy has already accepted need not be validated first, which saves 50 to 150 ms of a rollback.
    """
    taken = [_cluster_shape(cluster) for cluster in clusters.values()]
    return _route_shape(before) == _route_shape(after) and all(_cluster_shape(cluster) in taken for cluster in more.values())


def _route_shape(document_: Mapping[str, Any]) -> list[Json]:
    actions = [rule.get("route") for rule in _rules(document_) if "headers" not in rule["match"]]
    moving = ("weighted_clusters", "request_mirror_policies", "hash_policy")
    return [{key: value for key, value in action.items() if key not in moving} for action in actions if action]


def _cluster_shape(cluster: Json) -> Json:
    return {
        key: value for key, value in cluster.items() if key not in ("name", "metadata", "load_assignment", "cluster_type", "health_checks")
    }


def weights_of(document_: Mapping[str, Any]) -> dict[str, int]:
    """Cluster name to weight of the main route of an RDS document or a dump of it; empty if it has no route."""
    rules = _rules(document_)
    action = rules[-1].get("route", {}) if rules else {}
    return {entry["name"]: entry.get("weight", 0) for entry in action.get("weighted_clusters", {}).get("clusters", [])}


def splits_bare(document_: Mapping[str, Any], *, arm: str) -> bool:
    """True if the main route of an RDS document gives *arm* a share of the users by their bare ids, without a salt."""
    rules = _rules(document_)
    salted = bool(rules) and "salt" in rules[-1].get("metadata", {}).get("filter_metadata", {}).get(users.FILTER, {})
    weights = weights_of(document_)
    return safe_name(arm) in weights and len(weights) > 1 and not salted


def reachable(document_: Mapping[str, Any], *, clusters: Mapping[str, Json]) -> dict[str, Json]:
    """Those of *clusters* that the main route of an RDS document leads to, including members of aggregates."""
    found: dict[str, Json] = {}
    for name in weights_of(document_):
        members = clusters.get(name, {}).get("cluster_type", {}).get("typed_config", {}).get("clusters", [])
        found |= {known: clusters[known] for known in (name, *members) if known in clusters}
    return found


def _rules(document_: Mapping[str, Any]) -> list[Json]:
    hosts = [host for resource in document_.get("resources", []) for host in resource.get("virtual_hosts", [])]
    return [rule for host in hosts for rule in host.get("routes", [])]


def _check_names(traffic: Traffic) -> None:
    for key in ("user_header", "user_cookie"):
        if not HTTP_NAME.fullmatch(getattr(traffic, key)):
            raise base.Rejected(
                f"traffic.{key} is {getattr(traffic, key)!r}, which is not a valid HTTP header name; correct it in service.yaml"
            )


def _debug(desired: base.Desired, *, known: Collection[str], token: str) -> list[Json]:
    """With the token a caller chooses a bundle, without fallback; answers carry the arm `debug`, so that no gate counts them.

    Without a bundle name its request is routed like any other, and the answer names its arm and parts.
    """
    key = {"name": traffic_headers.TOKEN, "string_match": {"exact": token}}
    rules = []
    for digest in sorted(set(map(arms.bundle_of, desired.warm))):
        if digest in known:
            names = {"regex": f"{re.escape(digest)}|{short(digest)}"}
            match = {"prefix": "/", "headers": [key, {"name": traffic_headers.BUNDLE, "string_match": {"safe_regex": names}}]}
            action = {"cluster": cluster_name(digest), **_limits_of(desired.service.traffic)}
            rules.append({**_rule(match, action, desired.service), **_told(arm="debug")})
    match = {"prefix": "/", "headers": [key, {"name": traffic_headers.BUNDLE, "present_match": True}]}
    text = "that bundle has no worker here; see 'lastgood status' for bundles that have one, and name one by its full digest or its first 12 hex digits"
    return [*rules, _answer(match, 404, text), *_by_weight(desired, known=known, token=key)]


def _by_weight(desired: base.Desired, *, known: Collection[str], token: Json | None) -> list[Json]:
    """Feedback, and everything else, by weight; a holder of the *token* gets arm and parts in the answers."""
    headers = {"headers": [token]} if token else {}
    if token:
        answers: Json = {"request_headers_to_add": [_set(traffic_headers.DISCLOSE, "all")]}
    else:
        answers = (
            {"response_headers_to_remove": [traffic_headers.BUNDLE, traffic_headers.REVISION]}
            if desired.service.traffic.disclose == "none"
            else {}
        )
    return [
        {
            **_rule({**place, **headers}, _action(desired, known=known, feedback=feedback, told=token is not None), desired.service),
            **answers,
        }
        for place, feedback in (({"path": FEEDBACK}, True), ({"prefix": "/"}, False))
    ]


def _rule(match: Json, action: Json, service: Service) -> Json:
    """A body is buffered while it may be retried or copied: one that does not fit is neither, and this is not reported."""
    return {"match": match, "route": action, "request_body_buffer_limit": service.serving.max_body_bytes}


def _limits_of(traffic: Traffic) -> Json:
    """Limits for duration and silence of a request: without the second, Envoy's own minute ends slow ones regardless of the first."""
    return {"timeout": _seconds(traffic.timeout_s), "idle_timeout": _seconds(max(IDLE_S, traffic.timeout_s + IDLE_MARGIN_S))}


def _answer(match: Json, status: int, text: str) -> Json:
    """Envoy answers by itself; the listener wraps *text* as `{"error": text}`."""
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _action(desired: base.Desired, *, known: Collection[str], feedback: bool, told: bool) -> Json:
    traffic = desired.service.traffic
    entries = [
        {"name": safe_name(digest), "weight": share, **_arm(desired.arm(digest), told=told)}
        for digest, share in shares(desired.weights).items()
        if share
    ]
    action: Json = {
        **_limits_of(traffic),
        "weighted_clusters": {"clusters": entries, "use_hash_policy": True},
        "hash_policy": users.hash_policy(traffic, salt=desired.salt),
        "retry_policy": _retry(traffic, again=traffic.idempotent and not feedback),
    }
    if desired.mirror and desired.mirror[0] in known and not feedback:
        digest, percent = desired.mirror
        fraction = {"numerator": round(percent * TOTAL), "denominator": "MILLION"}
        copied = [digest, *_warming(desired, known=known)]
        mark = [{"append": _set(traffic_headers.SHADOW, "1")}]
        action["request_mirror_policies"] = [
            {"cluster": cluster_name(arm), "runtime_fraction": {"default_value": fraction}, "request_headers_mutations": mark}
            for arm in copied
        ]
    return action


def _warming(desired: base.Desired, *, known: Collection[str]) -> list[str]:
    """The control arm, while it has no users: it gets as many copies as the candidate, so that neither starts colder than the other."""
    if not desired.control or desired.stable is None:
        return []
    control = arms.control_of(desired.stable)
    return [control] if control in known and not desired.weights.get(control) else []


def _retry(traffic: Traffic, *, again: bool) -> Json:
    """Failed connections, and answers of a worker that did nothing because it is not ready, are always retried elsewhere.

    Failed and slow answers only if trying *again* does no harm.
    """
    extensions = _EXTENSIONS + "retry."
    policy: Json = {
        "retry_on": "connect-failure,refused-stream,retriable-headers" + (",reset,5xx" if again else ""),
        "retriable_headers": [{"name": traffic_headers.UNREADY, "present_match": True}],
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {"@type": extensions + "priority.previous_priorities.v3.PreviousPrioritiesConfig", "update_frequency": 1},
        },
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": extensions + "host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }
    if again:  # a row that this bundle cannot compute may be one that the fallback can
        policy["retriable_headers"] += [{"name": traffic_headers.PROBLEM, "string_match": {"exact": "uncomputable"}}]
        policy["per_try_timeout"] = _seconds(timeouts.try_s(traffic))
    return policy


def _arm(arm: str, *, told: bool) -> Json:
    """The worker is given the arm; the caller only if it may see it."""
    named = [_set(traffic_headers.ARM, arm)]
    return {"request_headers_to_add": named, **({"response_headers_to_add": named} if told else {})}


def _told(*, arm: str) -> Json:
    return {**_arm(arm, told=True), "request_headers_to_add": [_set(traffic_headers.ARM, arm), _set(traffic_headers.DISCLOSE, "all")]}


def _set(key: str, value: str) -> Json:
    return header(key, value, action="OVERWRITE_IF_EXISTS_OR_ADD")


def header(key: str, value: str, *, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    """A header to add, in Envoy's notation."""
    return {"header": {"key": key, "value": value}, "append_action": action}


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"
