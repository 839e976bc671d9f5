"""Rules of a single step: the state before, the revision that followed. Each raises Violation under a name of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lastgood.analysis import run as analysis_run
from lastgood.controller.analysis_loop import ACTOR
from lastgood.core.rollback import BREAKER, BREAKER_S
from lastgood.core.state import State
from lastgood.ledger import rows
from lastgood.service import gates, schema
from tests.simulation.project import SERVICE

if TYPE_CHECKING:
    from tests.simulation.world import World

Rule = Callable[["World", State, rows.Revision], None]

UNREADY = "its workers were not ready"


def _broken(rule: str, detail: str) -> None:
    if rule in OPEN:
        return
    from tests.simulation.watch import Violation

    raise Violation(rule, detail)


def steps_back(before: State, revision: rows.Revision) -> bool:
    """Whether *revision* took something away from users or from a release because of a fault."""
    return revision.verb == "rollback" and (bool(revision.marks) or revision.state.stable != before.stable)


def verdicts(revision: rows.Revision) -> list[dict[str, Any]]:
    """What the gates said by the evidence of *revision*."""
    return list(revision.evidence.get("verdicts", ()))


def by_chance(revision: rows.Revision) -> bool:
    """Whether a test that can be wrong by chance led to this step back."""
    return revision.verb == "rollback" and any(one["cause"] in ("sequential", "persistence") for one in verdicts(revision))


def stable_is_never_marked(world: World, before: State, revision: rows.Revision) -> None:
    after = revision.state
    if {after.stable, after.candidate, after.previous} & set(after.marks):
        _broken("stable is never marked", f"{after.marks}")


def only_a_candidate_beside_a_stable_has_a_share(world: World, before: State, revision: rows.Revision) -> None:
    after = revision.state
    if (after.weight_pct or after.mirror_pct) and (after.candidate is None or after.stable is None):
        _broken("only a candidate beside a stable has a share", f"{after}")
    if not 0 <= after.weight_pct < 100:
        _broken("shares sum to 100", f"{after.weight_pct}")


def nothing_goes_on_while_held(world: World, before: State, revision: rows.Revision) -> None:
    if before.hold is not None and revision.verb in ("advance", "cut-over", "promote", "skip"):
        _broken("nothing goes on while held", f"{revision.verb} in revision {revision.number}")


def a_phase_is_passed_only_with_every_guardrail(world: World, before: State, revision: rows.Revision) -> None:
    """All gates that are asked in the phase say pass, by the evidence, after the least time, and none of them is missing."""
    if revision.verb not in ("advance", "cut-over") or before.phase not in ("shadow", "canary"):
        return
    asked = analysis_run.questions(before, config(world, before), proposed_at=0.0, now=revision.at)
    wanted = {
        name for question in asked for name, gate in question.gates.items() if "verify/" not in question.key and gate.kind != "observe"
    }
    said = {one["gate"]: one["outcome"] for one in verdicts(revision)}
    missing = {name: said.get(name, "nothing") for name in wanted - set(before.waived) if said.get(name) != "pass"}
    if missing:
        _broken("no phase is passed with an inconclusive guardrail", f"{before.phase}: {missing}")
    if before.planned and revision.at - (before.phase_since or 0.0) < before.planned.min_s:
        _broken("no phase is shorter than its least time", f"{revision.at - (before.phase_since or 0.0):g} s of {before.planned.min_s:g}")


def a_gross_fault_never_becomes_stable(world: World, before: State, revision: rows.Revision) -> None:
    """Through its chain, with a sound bundle beside it and a gate that can see the fault."""
    if revision.verb != "cut-over" or not before.chain or before.candidate is None or before.stable is None:
        return
    profile, beside = world.traffic.profiles[before.candidate], world.traffic.profiles[before.stable]
    began = world.watch.releases[before.rollout or 0].proposed_at
    if profile.late_s is not None or not beside.sound or world.watch.outage_at >= began:
        return
    seen_by = [
        name
        for name, gate in config(world, before).gates.items()
        if gate.metric in profile.shows and gate.kind != "observe" and name not in before.waived and _asked_in(gate, before)
    ]
    if seen_by:
        _broken("a gross fault never becomes stable while the gates see traffic", f"{profile.name} in spite of {seen_by}")


def _asked_in(gate: gates.AnyGate, state: State) -> bool:
    kinds = {phase.kind for phase in state.chain}
    if isinstance(gate, gates.Agreement) and not any(phase.mirror_pct for phase in state.chain):
        return False
    return bool(kinds & set(gate.during))


def no_rollback_of_a_rollback(world: World, before: State, revision: rows.Revision) -> None:
    automatic = revision.actor == ACTOR and revision.verb == "rollback"
    if automatic and before.verifying is not None and revision.state.stable != before.stable and not revision.reason.startswith(UNREADY):
        _broken("no rollback of a rollback", f"revision {revision.number}: {revision.reason}")


def the_breaker_holds(world: World, before: State, revision: rows.Revision) -> None:
    """At most three automatic steps back within an hour; the next one holds the service, and no other follows."""
    if revision.actor != ACTOR or not steps_back(before, revision):
        return
    window_s = BREAKER_S - 2 * world.jumped_s
    recent = [at for at in world.watch.automatic_at if revision.at - at < window_s]
    if len(recent) >= BREAKER and revision.state.hold is None:
        _broken("at most three automatic rollbacks an hour, then a hold", f"{len(recent) + 1} of them, revision {revision.number}")
    if len(recent) > BREAKER:
        _broken("at most three automatic rollbacks an hour, then a hold", f"number {len(recent) + 1} in spite of the hold")


def every_automatic_step_says_why(world: World, before: State, revision: rows.Revision) -> None:
    """A reason, and the verdicts where gates decided."""
    if revision.actor != ACTOR:
        return
    if not revision.reason:
        _broken("every automatic step has a reason", f"revision {revision.number} {revision.verb}")
    judged = revision.verb in ("rollback", "hold", "verified") or (
        revision.verb in ("advance", "cut-over", "abandon") and before.phase in ("shadow", "canary")
    )
    by_gates = judged and not revision.reason.startswith(UNREADY)
    if by_gates and not verdicts(revision):
        _broken("every automatic step has evidence", f"revision {revision.number} {revision.verb}: {revision.reason}")
    if "ready" not in revision.evidence:
        _broken("every automatic step has evidence", f"revision {revision.number} {revision.verb} does not say which workers were ready")


def one_page_for_each_step_back(world: World, before: State, revision: rows.Revision) -> None:
    """Exactly one page about what was taken out, critical only if nothing good serves yet; the page that closes it has the same key."""
    pages = [page for page in world.book.pages(SERVICE, limit=500) if page.revision == revision.number]
    kept = world.watch.step_pages
    if revision.actor == ACTOR and steps_back(before, revision):
        about = [page for page in pages if page.key != "breaker"]
        urgent = "were not ready" in revision.reason or revision.state.stable is None
        if len(about) != 1 or about[0].severity != ("critical" if urgent else "warning") or about[0].resolves:
            _broken("one page for each step back", f"revision {revision.number}: {about}")
        if revision.state.verifying is not None and revision.state.verifying != before.verifying:
            kept[revision.state.verifying.since] = about[0].key
    if revision.verb == "verified" and before.verifying is not None:
        opened = kept.get(before.verifying.since)
        if len(pages) != 1 or (opened is not None and pages[0].key != opened):
            _broken("a page is closed under its own key", f"{[page.key for page in pages]} closes {opened}")


def patience_is_kept(world: World, before: State, revision: rows.Revision) -> None:
    """Automation acts on silence only after it has really lasted that long."""
    if revision.actor != ACTOR or revision.verb not in ("rollback", "hold"):
        return
    named = config(world, before).gates
    for one in verdicts(revision):
        if one["outcome"] != "inconclusive" or one["cause"] not in ("no_traffic", "source_down") or one["gate"] not in named:
            continue
        lasted = revision.at - one["since"]
        began = before.phase_since if before.phase != "idle" else world.book.revision(SERVICE, before.revision).at
        longest = revision.at - (began if before.phase in ("idle", "baking") else world.book.revision(SERVICE, before.rollout).at)
        if lasted > longest + 1.0 + world.jumped_s:
            _broken(
                "patience begins when somebody looks", f"{one['gate']} {one['cause']} for {lasted:g} s of {longest:g} s that anybody looked"
            )


def config(world: World, state: State) -> schema.Service:
    """The configuration by which *state* is judged."""
    return world.project.service[state.candidate or state.stable or world.bundles[0]]


OPEN: set[str] = set()
OF_A_STEP: tuple[Rule, ...] = (
    stable_is_never_marked,
    only_a_candidate_beside_a_stable_has_a_share,
    nothing_goes_on_while_held,
    a_phase_is_passed_only_with_every_guardrail,
    a_gross_fault_never_becomes_stable,
    no_rollback_of_a_rollback,
    the_breaker_holds,
    every_automatic_step_says_why,
    one_page_for_each_step_back,
    patience_is_kept,
)
