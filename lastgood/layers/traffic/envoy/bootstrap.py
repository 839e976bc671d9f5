"""The part of Envoy's configuration that is fixed while it runs: listener, filters, logs, admin socket. Pure.

What does not belong here: routes and clusters, which change with every release (`config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood.layers.traffic import headers
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import users
from lastgood.layers.traffic.envoy.documents import Json

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_BUCKETS_MS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 600, 800]
_BUCKETS_SLOW_MS = [1000, 1500, 2000, 3000, 5000, 10000, 30000, 60000, 120000, 300000, 600000]
HOST = "127.0.0.1"


def bootstrap(
    *, service: str, port: int, admin: Path, routes: Path, clusters: Path, access_log: Path, ejections: Path, user_key: str
) -> Json:
    """The file that Envoy is started with; Envoy watches the files *routes* and *clusters* for new versions.

    *user_key* is the secret by which the access log names users.
    """
    source = {"resource_api_version": "V3", "initial_fetch_timeout": "5s", "path_config_source": {"path": str(routes)}}
    manager = _manager({"rds": {"route_config_name": envoy_config.ROUTES, "config_source": source}})
    manager["http_filters"].insert(0, users.http_filter(user_key))
    manager["access_log"] = [_access_log(access_log)]
    return {
        "node": {"id": f"lastgood-{service}", "cluster": "lastgood"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "stats_flush_interval": "1s",
        "stats_config": {
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": [*_BUCKETS_MS, *_BUCKETS_SLOW_MS]}]
        },
        "cluster_manager": {"outlier_detection": {"event_log_path": str(ejections)}},
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        "dynamic_resources": {"cds_config": {"resource_api_version": "V3", "path_config_source": {"path": str(clusters)}}},
        "static_resources": {"listeners": [_listener(port, manager)]},
    }


def trial(*, routes: Json, clusters: Mapping[str, Json]) -> Json:
    """A self-contained configuration with these *routes* and *clusters*, for `envoy --mode validate`: nothing is opened or watched."""
    inline = {"route_config": _plain(routes["resources"][0])}
    return {
        "static_resources": {"listeners": [_listener(0, _manager(inline))], "clusters": [_plain(cluster) for cluster in clusters.values()]}
    }


def _plain(resource: Json) -> Json:
    return {key: value for key, value in resource.items() if key != "@type"}


def _listener(port: int, manager: Json) -> Json:
    return {
        "name": "edge",
        # With the default, a second Envoy would silently share the port and answer every other request.
        "enable_reuse_port": False,
        "address": {"socket_address": {"address": HOST, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def _manager(routes: Json) -> Json:
    return {
        "@type": _EXTENSIONS + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "stream_idle_timeout": "60s",
        "request_headers_timeout": "10s",
        "delayed_close_timeout": "1s",
        "drain_timeout": "2s",
        "local_reply_config": {"body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}, "content_type": "application/json"}},
        **routes,
        "http_filters": [
            # Reads the route, as the filter before it may have it chosen anew: now, while the debug token is still there.
            _mutate(_without("x-envoy-")),
            _strip(),
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _EXTENSIONS + "filters.http.router.v3.Router"}},
        ],
    }


def _strip() -> Json:
    """Callers can set neither our headers nor Envoy's, which change retries and timeouts; what only the proxy knows is added.

    The route is chosen before this filter, so the debug token still works; the router adds arm, revision and the mark of a copy after
    it. The id is assigned before the request is copied or retried, so all of these have the same.
    """
    added = {headers.REQUEST_ID: "%UNIQUE_ID%", headers.PEER: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}
    return _mutate(_without(headers.PREFIX), *({"append": envoy_config.header(name, value)} for name, value in added.items()))


def _without(prefix: str) -> Json:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}}


def _mutate(*mutations: Json) -> Json:
    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": _EXTENSIONS + "filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": list(mutations)},
        },
    }


def _access_log(path: Path) -> Json:
    line: dict[str, Any] = {
        "t": "%START_TIME(%s.%6f)%",
        "id": f"%REQ({headers.REQUEST_ID})%",
        "caller_id": "%RESP(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        # From the request as forwarded: the content of the answer depends on the caller.
        "revision": f"%METADATA(ROUTE:{envoy_config.MARK}:revision)%",
        "arm": f"%REQ({headers.ARM})%",
        "bundle": "%RESP(X-LASTGOOD-BUNDLE)%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "host": "%UPSTREAM_HOST%",
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
        "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        # How long the caller took to send everything, how long it then waited, and the total, for one that hung up.
        "received_us": "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%",
        "waited_us": "%COMMON_DURATION(DS_RX_END:US_RX_END:us)%",
        "all_ms": "%DURATION%",
        "problem": "%RESP(x-lastgood-problem)%",
        # A caller whose row could not be computed is counted once; the address's network suffices, the address itself is personal data.
        "peer": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT(24)%",
        # A keyed hash: a reader of the log can count users, but not identify them.
        "user": users.USER_IN_LOG,
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _EXTENSIONS + "access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": line},
        },
    }


def _connection_limit() -> Json:
    kind = _EXTENSIONS + "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": kind, "max_active_downstream_connections": 10_000},
    }
