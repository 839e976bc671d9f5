"""The pure half: what Envoy is told for any desired state."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.service import schema
from tests.layers.traffic.world import SERVICE, A, B, C

BUNDLES = (A, B, C)
PLACES = {bundle.id: (base.Endpoint("127.0.0.1", 9000 + number),) for number, bundle in enumerate(BUNDLES)}


def configured(**traffic: Any) -> schema.Service:
    """A service with some of its traffic settings changed."""
    value = {"schema": schema.SCHEMA, "service": SERVICE, "tier": "real-time-api", "owner": "tests"}
    return schema.Service.model_validate({**value, "traffic": {"port": 8080, **traffic}})


def state(revision: int = 1, *, traffic: dict[str, Any] | None = None, **fields: Any) -> base.Desired:
    """A desired state of it."""
    return base.Desired(service=configured(**(traffic or {})), revision=revision, **fields)


def planned(desired: base.Desired, **more: Any) -> envoy_config.RoutePlan:
    """The plan for it; every bundle has a worker unless `ready` says otherwise."""
    return envoy_config.plan(desired, ready=more.get("ready", PLACES), now=more.get("now", {}), token=more.get("token", ""))


def main_route(plan: envoy_config.RoutePlan) -> dict[str, Any]:
    """The action of the route that takes everything."""
    routes = plan.routes["resources"][0]["virtual_hosts"][0]["routes"]
    assert routes[-1]["match"] == {"prefix": "/"}
    found: dict[str, Any] = routes[-1]["route"]
    return found


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=6))
def test_shares_are_whole_keep_the_order_and_sum_up(raw: list[float]) -> None:
    """Whatever the percentages, Envoy gets whole numbers with a fixed sum, none of them lost, in the order given."""
    total = sum(raw)
    weights = {f"sha256:{number}": value * 100 / total for number, value in enumerate(raw)}
    found = envoy_config.shares(weights)
    assert list(found) == list(weights)
    assert sum(found.values()) == envoy_config.TOTAL
    assert all(found[digest] >= 1 for digest in weights)
    assert all(abs(found[digest] / 100 - weights[digest]) <= 0.01 * len(weights) for digest in weights)


@pytest.mark.parametrize("weights", [{A.id: 60.0}, {A.id: -10.0, B.id: 110.0}, {A.id: float("nan")}, {A.id: 60.0, B.id: 60.0}])
def test_weights_that_cannot_be_are_rejected(weights: dict[str, float]) -> None:
    """Weights that are not percentages with the sum 100 never reach Envoy."""
    with pytest.raises(base.Rejected, match="sum to 100"):
        envoy_config.shares(weights)


@st.composite
def desired_states(draw: st.DrawFn) -> base.Desired:
    """Any desired state of three bundles in any roles."""
    stable, candidate, previous = draw(st.permutations(BUNDLES))
    share = draw(st.sampled_from([0.0, 0.5, 5.0, 50.0, 100.0]))
    has_candidate = draw(st.booleans())
    weights = {candidate.id: share, stable.id: 100 - share} if has_candidate else {stable.id: 100.0}
    return state(
        draw(st.integers(0, 10**9)),
        stable=stable.id,
        candidate=candidate.id if has_candidate else None,
        previous=previous.id if draw(st.booleans()) else None,
        weights=weights,
        mirror=draw(st.sampled_from([None, (candidate.id, 12.5)])) if has_candidate else None,
        traffic={"idempotent": draw(st.booleans()), "timeout_s": draw(st.sampled_from([0.25, 5.0, 600.0]))},
    )


@given(desired_states(), st.sets(st.sampled_from([bundle.id for bundle in BUNDLES])), st.booleans())
def test_routes_never_name_a_cluster_that_is_not_planned(desired: base.Desired, ready: set[str], with_token: bool) -> None:
    """Unless a bundle that should get traffic has no worker, every cluster that is routed or mirrored to exists."""
    plan = planned(desired, ready={digest: PLACES[digest] for digest in ready}, token="t" * with_token)
    if plan.unready:
        assert not set(plan.unready) & ready
        return
    rules = plan.routes["resources"][0]["virtual_hosts"][0]["routes"]
    actions = [rule["route"] for rule in rules if "route" in rule]
    named = {entry["name"] for action in actions for entry in action.get("weighted_clusters", {}).get("clusters", [])}
    named |= {action["cluster"] for action in actions if "cluster" in action}
    named |= {policy["cluster"] for action in actions for policy in action.get("request_mirror_policies", [])}
    named |= {member for cluster in plan.clusters.values() for member in _members(cluster)}
    assert named <= plan.clusters.keys()
    assert {name for name, share in envoy_config.weights_of(plan.routes).items() if share} <= plan.clusters.keys()


@given(desired_states())
def test_a_document_proves_its_own_content(desired: base.Desired) -> None:
    """What is written parses back to the same; its version names the revision."""
    document = planned(desired).routes
    data = envoy_documents.dumps(document)
    assert envoy_documents.parse(data, where="x") == document
    assert envoy_documents.revision_of(document["version_info"]) == desired.revision


@given(desired_states(), st.data())
def test_any_flipped_byte_is_noticed(desired: base.Desired, data: st.DataObject) -> None:
    """No single changed byte of a document passes for the original."""
    written = bytearray(envoy_documents.dumps(planned(desired).routes))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(errors.Damaged, match="damaged"):
        envoy_documents.parse(bytes(written), where="x")


def _members(cluster: dict[str, Any]) -> list[str]:
    found: list[str] = cluster.get("cluster_type", {}).get("typed_config", {}).get("clusters", [])
    return found


def test_a_rollback_changes_no_cluster() -> None:
    """Previous is rendered as it will be as stable, so going back is a change of routes only."""
    serving = planned(state(7, stable=B.id, previous=A.id, weights={B.id: 100.0}))
    back = planned(state(8, stable=A.id, weights={A.id: 100.0}))
    assert {name: serving.clusters[name] for name in back.clusters} == dict(back.clusters)


def test_a_cut_over_changes_no_cluster() -> None:
    """A candidate without traffic is rendered as it will be as stable: taking over is a change of routes only."""
    preparing = planned(state(7, stable=A.id, candidate=B.id, weights={A.id: 100.0}))
    after = planned(state(8, stable=B.id, previous=A.id, weights={B.id: 100.0}))
    assert dict(preparing.clusters) == dict(after.clusters)


def test_fallbacks_follow_the_roles() -> None:
    """Stable falls back to previous, a candidate to stable, previous to nobody: a bundle that was left is never used."""
    plan = planned(state(stable=A.id, candidate=B.id, previous=C.id, weights={B.id: 5.0, A.id: 95.0}))
    name = envoy_config.cluster_name
    members = {cluster["name"]: _members(cluster) for cluster in plan.clusters.values() if "cluster_type" in cluster}
    assert members == {
        envoy_config.safe_name(A.id): [name(A.id), name(C.id)],
        envoy_config.safe_name(B.id): [name(B.id), name(A.id)],
        envoy_config.safe_name(C.id): [name(C.id)],
    }


def test_only_a_candidate_with_traffic_is_put_out_for_long() -> None:
    """Ten minutes out of rotation for a candidate on trial, ten seconds for stable."""
    plan = planned(state(stable=A.id, candidate=B.id, weights={B.id: 5.0, A.id: 95.0}))
    times = {digest: plan.clusters[envoy_config.cluster_name(digest)]["outlier_detection"]["base_ejection_time"] for digest in (A.id, B.id)}
    assert times == {A.id: "10s", B.id: "600s"}


def test_the_newest_bundle_stands_first() -> None:
    """Order is what makes stickiness monotone: the candidate before stable, as the desired state lists them."""
    action = main_route(planned(state(stable=A.id, candidate=B.id, weights={B.id: 20.0, A.id: 80.0})))
    entries = action["weighted_clusters"]["clusters"]
    assert [(entry["name"], entry["weight"]) for entry in entries] == [
        (envoy_config.safe_name(B.id), 2000),
        (envoy_config.safe_name(A.id), 8000),
    ]


def test_a_service_that_must_not_be_asked_twice_retries_connections_only() -> None:
    """Without idempotence neither errors nor slow answers are asked again, and no attempt is cut short."""
    once = main_route(planned(state(stable=A.id, weights={A.id: 100.0}, traffic={"idempotent": False})))["retry_policy"]
    assert once["retry_on"] == "connect-failure,refused-stream,retriable-headers"
    assert once["retriable_headers"] == [{"name": "x-lastgood-unready", "present_match": True}]
    assert "per_try_timeout" not in once
    again = main_route(planned(state(stable=A.id, weights={A.id: 100.0})))["retry_policy"]
    assert "5xx" in again["retry_on"]
    assert "uncomputable" not in str(once)
    assert "uncomputable" in str(again["retriable_headers"])


def test_an_attempt_never_outlasts_the_request() -> None:
    """A per-try limit above the whole limit is cut to it."""
    action = main_route(planned(state(stable=A.id, weights={A.id: 100.0}, traffic={"timeout_s": 0.5, "per_try_timeout_s": 60})))
    assert (action["timeout"], action["retry_policy"]["per_try_timeout"]) == ("0.5s", "0.5s")


def test_a_bundle_whose_workers_are_away_keeps_its_cluster() -> None:
    """Previous is being restarted: its cluster stays as it was and is not rebuilt."""
    serving = state(3, stable=B.id, previous=A.id, weights={B.id: 100.0})
    before = planned(serving)
    after = planned(serving, ready={B.id: PLACES[B.id]}, now=before.clusters)
    assert dict(after.clusters) == dict(before.clusters)
    assert after.unready == ()


def test_a_worker_at_a_new_address_changes_its_cluster_only() -> None:
    """Other clusters stay byte for byte, so Envoy leaves them alone."""
    serving = state(3, stable=B.id, previous=A.id, weights={B.id: 100.0})
    before = planned(serving)
    after = planned(serving, ready={**PLACES, A.id: (base.Endpoint("127.0.0.1", 9999),)}, now=before.clusters)
    assert [name for name in after.clusters if after.clusters[name] != before.clusters[name]] == [envoy_config.cluster_name(A.id)]


@pytest.mark.parametrize("key", ["user_header", "user_cookie"])
def test_a_name_that_http_does_not_allow_is_rejected(key: str) -> None:
    """A bad header name in service.yaml is named before Envoy sees it."""
    with pytest.raises(base.Rejected, match=f"traffic.{key}"):
        planned(state(stable=A.id, weights={A.id: 100.0}, traffic={key: "user id\r\nx: y"}))


def test_shapes_tell_what_has_to_be_tried_out() -> None:
    """Another bundle, weight or address has the same shape; another timeout or a first candidate on trial has not."""
    one = planned(state(1, stable=A.id, weights={A.id: 100.0}))
    two = planned(state(2, stable=B.id, previous=A.id, weights={B.id: 100.0}))
    slow = planned(state(3, stable=B.id, previous=A.id, weights={B.id: 100.0}, traffic={"timeout_s": 9}))
    trial = planned(state(4, stable=A.id, candidate=B.id, weights={B.id: 5.0, A.id: 95.0}))

    def same(before: envoy_config.RoutePlan, after: envoy_config.RoutePlan) -> bool:
        return envoy_config.same_shape(before.routes, after.routes, clusters=before.clusters, more=after.clusters)

    assert same(one, two)
    assert not same(two, slow)
    assert not same(two, trial)


def test_a_control_arm_has_a_cluster_and_a_share_of_its_own() -> None:
    """Its workers name stable's bundle, whoever falls back goes to stable, and answers say by whom they were given."""
    control = arms.control_of(A.id)
    weights = {B.id: 5.0, control: 5.0, A.id: 90.0}
    desired = state(stable=A.id, candidate=B.id, previous=C.id, weights=weights, control=True)
    plan = planned(desired, ready={**PLACES, control: (base.Endpoint("127.0.0.1", 9100),)}, token="secret")
    own, safe = (plan.clusters[f"{envoy_config.cluster_name(A.id)}-control{ending}"] for ending in ("", ".safe"))
    assert envoy_config.mark_of(own)["bundle"] == control
    assert own["health_checks"][0]["http_health_check"]["receive"] == [{"text": A.id.encode().hex()}]
    assert own["outlier_detection"] == plan.clusters[envoy_config.cluster_name(A.id)]["outlier_detection"]
    assert safe["cluster_type"]["typed_config"]["clusters"] == [own["name"], *map(envoy_config.cluster_name, (A.id, C.id))]
    entries = main_route(plan)["weighted_clusters"]["clusters"]
    assert [(entry["name"], entry["weight"]) for entry in entries] == [
        (envoy_config.safe_name(B.id), 500),
        (safe["name"], 500),
        (envoy_config.safe_name(A.id), 9000),
    ]
    arm = [entry["request_headers_to_add"][0]["header"]["value"] for entry in entries]
    assert arm == ["candidate", "control", "stable"]
    assert dict(plan.weights) == weights
    assert planned(desired, ready=None, now=plan.clusters, token="secret") == plan


def test_nobody_waits_for_a_control_arm() -> None:
    """One whose worker is gone keeps its users, whom its fallback answers; one that never had any leaves them to stable."""
    control = arms.control_of(A.id)
    desired = state(stable=A.id, candidate=B.id, weights={B.id: 5.0, control: 5.0, A.id: 90.0}, control=True)
    never = planned(desired)
    assert (dict(never.weights), never.unready) == ({B.id: 5.0, A.id: 95.0}, ())
    assert not [name for name in never.clusters if "control" in name]
    there = planned(desired, ready={**PLACES, control: (base.Endpoint("127.0.0.1", 9100),)})
    gone = planned(desired, now=there.clusters)
    assert (gone.clusters, gone.routes, gone.unready) == (there.clusters, there.routes, ())
    assert gone.needed == there.needed == (envoy_config.cluster_name(B.id), envoy_config.cluster_name(A.id))


def test_while_it_has_no_users_a_control_arm_gets_copies_as_well() -> None:
    """Else it would begin the canary colder than the candidate that it is compared with."""
    control = arms.control_of(A.id)
    places = {**PLACES, control: (base.Endpoint("127.0.0.1", 9100),)}
    shadow = state(stable=A.id, candidate=B.id, weights={A.id: 100.0}, mirror=(B.id, 40.0), control=True)

    def copied(desired: base.Desired, ready: dict[str, Any]) -> list[tuple[str, int]]:
        found = main_route(planned(desired, ready=ready))["request_mirror_policies"]
        return [(one["cluster"], one["runtime_fraction"]["default_value"]["numerator"]) for one in found]

    both = [(envoy_config.cluster_name(arm), 400_000) for arm in (B.id, control)]
    assert copied(shadow, places) == both
    assert copied(shadow, PLACES) == both[:1]
    assert copied(dataclasses.replace(shadow, control=False), places) == both[:1]
    live = dataclasses.replace(shadow, weights={B.id: 5.0, control: 5.0, A.id: 90.0})
    assert copied(live, places) == both[:1]
