"""What the ledger promises, on SQLite and on Postgres alike."""

from __future__ import annotations

import dataclasses

import pytest

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.core.events import Condemn, Marked, Propose, RollBack, SetHold
from lastgood.core.state import Mark, State
from lastgood.ledger import Ledger, connect
from tests.ledger import world
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back


def test_empty_service_is_at_revision_zero(ledger: Ledger):
    """A service nobody has released has the empty state, no history and no bundles."""
    assert ledger.state(SERVICE) == State(service=SERVICE)
    assert (ledger.newest(SERVICE), ledger.history(SERVICE), ledger.bundles(SERVICE), ledger.services()) == (0, [], [], [])
    assert ledger.at(SERVICE, 1e9) is None
    assert ledger.was_stable(SERVICE, digest(1)) is False


def test_register_is_idempotent_and_keeps_everything(ledger: Ledger):
    """The first registration counts; the second says so and changes nothing."""
    made = world.make(1)
    assert ledger.register(made, provenance={"git": "abc", "deep": {"x": [1, 2.5, None]}}, actor="ci", now=10.5) is True
    assert ledger.register(made, provenance={"git": "other"}, actor="ci", now=99.0) is False
    row = ledger.bundle_row(made.id)
    assert (row.bundle, row.provenance, row.registered_at) == (made, {"git": "abc", "deep": {"x": [1, 2.5, None]}}, 10.5)
    assert ledger.bundle(made.id) == made
    assert ledger.services() == [SERVICE]


def test_bundles_come_newest_first(ledger: Ledger):
    """`bundles` lists a service's bundles by time, the latest first, at most *limit*."""
    for number in (1, 2, 3):
        register(ledger, number, now=float(number))
    register(ledger, 9, service="other", now=9.0)
    assert [row.bundle.id for row in ledger.bundles(SERVICE, limit=2)] == [digest(3), digest(2)]
    assert ledger.services() == [SERVICE, "other"]


def test_unknown_bundle_is_not_found(ledger: Ledger):
    """Asking for a bundle that is not registered raises NotFound with a remedy."""
    for call in (lambda: ledger.bundle(digest(1)), lambda: ledger.evaluate(digest(1), kind="x", report={}, actor="a", now=1.0)):
        with pytest.raises(errors.NotFound, match="lastgood bundle list"):
            call()


def test_resolve_takes_digests_prefixes_and_aliases(ledger: Ledger):
    """A full digest, a unique prefix with or without `sha256:`, and an alias all lead to the digest."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    promote(ledger, second)
    bare = first.removeprefix("sha256:")
    for text in (first, bare, bare[:8], "sha256:" + bare[:8], bare[:8].upper(), "previous"):
        assert ledger.resolve(SERVICE, text) == first
    assert ledger.resolve(SERVICE, "stable") == second
    with pytest.raises(errors.NotFound, match="no candidate bundle"):
        ledger.resolve(SERVICE, "candidate")


@pytest.mark.parametrize("text", ["", "abc", "zzzz", "stabel", "sha256:", "a" * 65, "' OR 1=1 --", "%", "sha256:0000000"])
def test_resolve_refuses_what_names_nothing(ledger: Ledger, text: str):
    """Too short, no hex, too long, unknown: NotFound each time."""
    register(ledger, 1)
    with pytest.raises(errors.NotFound):
        ledger.resolve(SERVICE, text)


def test_resolve_lists_the_choices_of_an_ambiguous_prefix(ledger: Ledger):
    """Two bundles with one prefix are both named, and nothing is guessed."""
    seen: dict[str, str] = {}
    for number in range(1, 2000):
        found = digest(number)
        if (prefix := found[7:11]) in seen:
            break
        seen[prefix] = found
        seen[f"number {prefix}"] = str(number)
    register(ledger, int(seen[f"number {prefix}"]), number)
    with pytest.raises(errors.NotFound) as caught:
        ledger.resolve(SERVICE, prefix)
    assert manifest.short(found) in str(caught.value)
    assert manifest.short(seen[prefix]) in str(caught.value)


def test_resolve_stays_inside_the_service(ledger: Ledger):
    """A digest of another service's bundle does not resolve."""
    (other,) = register(ledger, 1, service="other")
    with pytest.raises(errors.NotFound):
        ledger.resolve(SERVICE, other)


def test_promote_and_roll_back_are_read_back_exactly(ledger: Ledger):
    """State, marks, evidence, actor and reason come back as they were appended."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first, now=100.0)
    promote(ledger, second, now=200.25)
    state, effects = world.decide(ledger, RollBack(reason="bad", verified=world.Everything()), now=300.0)
    evidence = {"error_rate": {"stable": 0.004, "candidate": 0.029}, "windows": [1, 2, 3], "note": 'naïve ✓ \n\t"quoted"'}
    done = ledger.append(
        state, effects, verb="rollback", actor="anna", reason="bad answers", now=300.0, evidence=evidence, operation="op-1"
    )
    assert ledger.revision(SERVICE, 5) == done
    assert ledger.state(SERVICE) == state
    assert (done.number, done.verb, done.actor, done.reason, done.at, done.evidence) == (
        5,
        "rollback",
        "anna",
        "bad answers",
        300.0,
        evidence,
    )
    assert done.marks == (Marked(bundle=second, kind="quarantined", reason="bad"),)
    assert done.state.stable == first
    assert done.hash.startswith("sha256:")


def test_state_survives_a_new_connection(url: str):
    """Another connection sees the same state; `migrate` may be repeated."""
    with connect(url) as one:
        one.migrate()
        promote(one, register(one, 1)[0])
        seen = one.state(SERVICE)
    with connect(url) as two:
        two.migrate()
        assert two.state(SERVICE) == seen
        assert two.schema_version() == one.schema_version() > 0


def test_history_pages_backwards(ledger: Ledger):
    """`history` is newest first and goes on before a number; each revision has the marks of its own time."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    promote(ledger, second)
    roll_back(ledger)
    act(ledger, Propose(bundle=second, verified=True, override="fixed"))
    assert [r.number for r in ledger.history(SERVICE, limit=2)] == [6, 5]
    assert [r.number for r in ledger.history(SERVICE, limit=10, before=5)] == [4, 3, 2, 1]
    six, five, four = ledger.history(SERVICE, limit=3)
    assert (dict(four.state.marks), dict(six.state.marks)) == ({}, {})
    assert five.state.marks == {second: Mark(kind="quarantined", reason="bad answers")}
    assert six.marks == (Marked(bundle=second, kind="lifted", reason="fixed"),)
    assert len({r.hash for r in ledger.history(SERVICE)}) == 6


def test_as_of_queries(ledger: Ledger):
    """`at` gives the revision in force at a time, also exactly at its own time."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first, now=100.0)
    promote(ledger, second, now=200.0)
    numbers = {when: found.number if (found := ledger.at(SERVICE, when)) else None for when in (99.9, 100.0, 199.9, 200.0, 1e9)}
    assert numbers == {99.9: None, 100.0: 2, 199.9: 2, 200.0: 4, 1e9: 4}


def test_a_clock_that_goes_back_does_not_disorder_the_log(ledger: Ledger):
    """A revision is never older than the one before, so that as-of queries stay right."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first, now=500.0)
    assert promote(ledger, second, now=100.0).at == 500.0
    assert [r.at for r in ledger.history(SERVICE)] == [500.0] * 4


def test_was_stable_remembers_what_the_lineage_forgot(ledger: Ledger):
    """A bundle counts as once stable for ever; a candidate that never cut over does not."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    act(ledger, Propose(bundle=second, verified=True))
    assert ledger.was_stable(SERVICE, first) is True
    assert ledger.was_stable(SERVICE, second) is False


def test_state_gives_the_marks_that_are_asked_for(ledger: Ledger):
    """`about` adds the marks of bundles that the state does not name."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    act(ledger, Condemn(bundle=second, kind="revoked", reason="leaked"))
    assert dict(ledger.state(SERVICE).marks) == {}
    assert ledger.state(SERVICE, about=[second]).marks == {second: Mark(kind="revoked", reason="leaked")}


def test_revoked_is_for_ever(ledger: Ledger):
    """A later quarantine of a revoked bundle does not weaken the mark, and no lift is taken."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    act(ledger, Condemn(bundle=second, kind="revoked", reason="leaked"))
    for kind in ("quarantined", "lifted"):
        state = dataclasses.replace(ledger.state(SERVICE), revision=ledger.newest(SERVICE) + 1)
        effects = (Marked(bundle=second, kind=kind, reason="x"),)
        if kind == "lifted":
            with pytest.raises(errors.NotAllowed, match="stays revoked"):
                ledger.append(state, effects, verb="x", actor="x", reason="x", now=1.0)
        else:
            ledger.append(state, effects, verb="x", actor="x", reason="x", now=1.0)
    assert ledger.state(SERVICE, about=[second]).marks[second].kind == "revoked"


def test_the_slower_of_two_gets_a_conflict_that_says_who_was_faster(ledger: Ledger):
    """Compare-and-set: the loser learns who did what and when, and nothing of his is written."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    state, effects = world.decide(ledger, Propose(bundle=second, verified=True), now=100.0)
    act(ledger, SetHold(reason="incident", actor="bob"), verb="hold", now=1700000000.0)
    with pytest.raises(errors.Conflict) as caught:
        ledger.append(state, effects, verb="promote", actor="late", reason="x", now=100.0)
    for part in ("revision 3", "'hold'", "op", "2023-11-14 22:13:20 UTC", manifest.short(first)):
        assert part in str(caught.value)
    assert ledger.newest(SERVICE) == 3


@pytest.mark.parametrize("number", [0, 2, 5])
def test_revision_numbers_have_no_gap(ledger: Ledger, number: int):
    """Only the newest number plus one is taken."""
    with pytest.raises(errors.Conflict, match="no revision yet"):
        ledger.append(State(service=SERVICE, revision=number), (), verb="x", actor="x", reason="x", now=1.0)


def test_a_repeated_operation_is_applied_once(ledger: Ledger):
    """The second append of one operation returns the first one's revision, even after others moved on."""
    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    promote(ledger, second)
    state, effects = world.decide(ledger, RollBack(reason="bad", verified=world.Everything()), now=5.0)
    call = {"verb": "rollback", "actor": "op", "reason": "bad", "now": 5.0, "operation": "abc"}
    done = ledger.append(state, effects, **call)
    act(ledger, SetHold(reason="r", actor="bob"))
    assert ledger.append(state, effects, **call) == done
    assert ledger.newest(SERVICE) == done.number + 1
    with pytest.raises(errors.Conflict, match="new operation id"):
        ledger.append(state, effects, **{**call, "verb": "promote"})


def test_operations_of_two_services_do_not_meet(ledger: Ledger):
    """The same operation name in another service is another operation."""
    for service in (SERVICE, "other"):
        register(ledger, 1, service=service)
        bundle_id = world.make(1, service).id
        assert act(ledger, Propose(bundle=bundle_id, verified=True), service=service, operation="same").number == 1


@pytest.mark.parametrize("change", [{"stable": digest(7)}, {"candidate": digest(7)}, {"previous": digest(7)}])
def test_an_unregistered_bundle_cannot_enter_the_state(ledger: Ledger, change: dict[str, str]):
    """Stable, candidate and previous must be registered bundles of the service."""
    register(ledger, 7, service="other")
    state = State(service=SERVICE, revision=1, **change)
    with pytest.raises(errors.NotAllowed, match="registered bundles of this service"):
        ledger.append(state, (), verb="x", actor="x", reason="x", now=1.0)
    assert ledger.newest(SERVICE) == 0


def test_nothing_is_left_of_a_refused_append(ledger: Ledger, keys):
    """A refusal in the middle of the transaction, after the revision row, takes the row and the lift back too."""
    from lastgood.ledger import audit

    first, second = register(ledger, 1, 2)
    promote(ledger, first)
    act(ledger, Condemn(bundle=second, kind="quarantined", reason="bad"))
    before = audit.verify(ledger, SERVICE, keys).head
    state = dataclasses.replace(ledger.state(SERVICE), revision=4)
    effects = (Marked(bundle=second, kind="lifted", reason="x"), Marked(bundle=first, kind="quarantined", reason="x"))
    with pytest.raises(errors.NotAllowed, match="stable or candidate cannot be quarantined"):
        ledger.append(state, effects, verb="x", actor="x", reason="x", now=1.0)
    assert ledger.newest(SERVICE) == 3
    assert ledger.state(SERVICE, about=[second]).marks[second].kind == "quarantined"
    assert audit.verify(ledger, SERVICE, keys).head == before


def test_evaluations_are_kept_in_order(ledger: Ledger):
    """Every evaluation of a bundle stays, oldest first, with its time."""
    (first,) = register(ledger, 1)
    for number in (1, 2, 3):
        ledger.evaluate(first, kind="offline", report={"auc": number / 10}, actor="ci", now=float(number))
    assert [(e.kind, e.report, e.at) for e in ledger.evaluations(first)] == [("offline", {"auc": n / 10}, float(n)) for n in (1, 2, 3)]


@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_text_that_an_engine_cannot_hold_is_refused(ledger: Ledger, bad: str):
    """A NUL or half a surrogate pair is a usage error on both engines, not a crash of one."""
    with pytest.raises(errors.UsageError, match="plain text"):
        ledger.note(SERVICE, kind="x", body={}, actor=bad, now=1.0)
    with pytest.raises(errors.UsageError, match="plain text"):
        ledger.append(State(service=SERVICE, revision=1), (), verb="x", actor="x", reason=bad, now=1.0)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1.0, 1.7e12])
def test_a_time_that_is_none_is_refused(ledger: Ledger, now: float):
    """NaN, infinity, before 1970, and milliseconds mistaken for seconds."""
    with pytest.raises(errors.UsageError, match="not a time"):
        ledger.append(State(service=SERVICE, revision=1), (), verb="x", actor="x", reason="x", now=now)


def test_what_json_cannot_hold_is_refused(ledger: Ledger):
    """Evidence with a NaN is refused before anything is written."""
    with pytest.raises(errors.Damaged, match="canonical JSON"):
        ledger.append(State(service=SERVICE, revision=1), (), verb="x", actor="x", reason="x", now=1.0, evidence={"x": float("nan")})
    assert ledger.newest(SERVICE) == 0


def test_hostile_text_is_only_text(ledger: Ledger):
    """Quotes, placeholders and SQL in every text field come back as they were."""
    nasty = "'); DROP TABLE revision; -- %s %(x)s :service {bundles} \\ \u2028 🙂"
    (first,) = register(ledger, 1)
    state, effects = world.decide(ledger, Propose(bundle=first, verified=True), now=1.0)
    done = ledger.append(state, effects, verb=nasty, actor=nasty, reason=nasty, now=1.0, evidence={nasty: nasty}, operation=nasty)
    assert ledger.revision(SERVICE, 1) == done
    assert (done.verb, done.actor, done.reason, done.evidence) == (nasty, nasty, nasty, {nasty: nasty})


def test_a_missing_revision_is_not_found(ledger: Ledger):
    """Asking for a revision that is not there names the remedy."""
    with pytest.raises(errors.NotFound, match="lastgood history"):
        ledger.revision(SERVICE, 1)


def test_a_ledger_that_was_never_set_up_says_so(url: str):
    """Before `migrate` every read and write says what to run, and nothing is created."""
    with connect(url) as fresh:
        for call in (lambda: fresh.state(SERVICE), lambda: fresh.note(SERVICE, kind="x", body={}, actor="x", now=1.0)):
            with pytest.raises(errors.Unavailable, match="lastgood up"):
                call()


def test_threads_share_one_ledger(ledger: Ledger):
    """Threads that use one ledger at once wait for each other and lose nothing."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.note(SERVICE, kind="n", body={"n": n}, actor="t", now=1.0), range(40)))
    from lastgood.ledger import audit

    assert sorted(e["body"]["note"]["n"] for e in audit.export(ledger, SERVICE)) == list(range(40))


@pytest.mark.parametrize("address", ["", "mysql://x", "sqlite://ledger.db", "ledger.db", "postgresql:/x"])
def test_an_unknown_address_is_refused(address: str):
    """Only the two kinds of address are taken."""
    with pytest.raises(errors.UsageError, match="sqlite:///absolute/path"):
        connect(address)


def test_a_password_never_shows():
    """Messages name the server but not the password, wherever it stands in the address."""
    for address in ("postgresql://me:hunter2@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=hunter2"):
        with connect(address, busy_timeout_s=1.0) as gone, pytest.raises(errors.Unavailable) as caught:
            gone.state(SERVICE)
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1:1/db" in str(caught.value)
