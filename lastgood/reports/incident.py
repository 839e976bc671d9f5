"""The record of a rollout that was rolled back: one JSON object with a stable schema, kept in the audit trail and as a file.

What does not belong here: when it is written (`incident_loop`), immediate notification (`paging`), pages to read (`html`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood import errors, ledger, release
from lastgood.ledger import audit, rows
from lastgood.reports import record, rollouts, wording
from lastgood.reports.record import RolloutRecord
from lastgood.system import clock as system_clock
from lastgood.system import files, plain

log = logging.getLogger("lastgood.incident")

SCHEMA = "lastgood.incident/v1"
ACTOR = "lastgood"


def close(ctx: release.Context, service: str, revision_number: int, *, clock: release.Clock = system_clock.now) -> dict[str, Any] | None:
    """Write the record of the rollout that revision *revision_number* took back, or whose recovery that revision settled.

    Returns the record, or the existing one if it was written before; None if the revision ends no rollout, if no bundle is blamed,
    or if the recovery after the rollback is still being measured. Raises LastgoodError only.
    """
    try:
        rollout = rollouts.rollout_ended_by(ctx.ledger, service, revision_number)
        found = None if rollout is None else rollouts.find(ctx.ledger, service, rollout)
        if found is None or not found.taken_back or not over(ctx.ledger, found):
            return None
        kept = _kept(ctx.ledger, service, found.number, since=found.revisions[0].at)
        if kept is not None:
            _write_file(file_of(ctx.settings.home, service, found.number), kept)
            return kept
        return write(ctx, service, record.collect(ctx, service, rollout=found.number, clock=clock), clock=clock)
    except errors.LastgoodError:
        raise
    except Exception as error:  # the border: whoever calls this has a release to look after
        raise errors.LastgoodError(
            f"the incident of revision {revision_number} of {service!r} cannot be recorded: {type(error).__name__}: {error}; "
            f"see 'lastgood report {service}'"
        ) from error


def over(book: ledger.Ledger, found: rollouts.Rollout) -> bool:
    """Whether the recovery after the rollback that ended *found* is settled, or no longer measured because another rollback replaced it."""
    ending = found.ending
    if ending is None:
        return False
    verifying = ending.state.verifying
    return verifying is None or found.verified is not None or book.state(found.service).verifying != verifying


def write(ctx: release.Context, service: str, chronicle: RolloutRecord, *, clock: release.Clock = system_clock.now) -> dict[str, Any]:
    """Write the record to the audit trail and to `incidents/` in the home folder, once per rollout; returns the stored record.

    Raises NothingToDo if nothing was taken back, Unavailable if the file cannot be written (the audit trail then has the record).
    """
    if chronicle.left is None:
        raise errors.NothingToDo(f"rollout {chronicle.rollout} of {service!r} was not rolled back; see 'lastgood report {service}'")
    found = _kept(ctx.ledger, service, chronicle.rollout, since=chronicle.revisions[0].at)
    if found is None:
        # In the form in which the audit trail returns it, so that a second write changes nothing.
        found = rows.parse(rows.dump(incident_record(chronicle)), "the incident")
        ctx.ledger.note(service, kind="incident", body=found, actor=ACTOR, now=clock())
        try:
            audit.checkpoint(ctx.ledger, service, ctx.settings.keys)
        except (OSError, errors.LastgoodError) as error:
            log.warning("the incident of rollout %s is in the audit trail, but not signed: %s", chronicle.rollout, error)
    _write_file(file_of(ctx.settings.home, service, chronicle.rollout), found)
    return found


def _kept(book: ledger.Ledger, service: str, rollout: int, *, since: float) -> dict[str, Any] | None:
    """The record of a rollout from the audit trail; None if it has not been written yet."""
    kept = record.notes(book, service, "incident", since=since)
    return next((note for note in kept if note["rollout"] == rollout), None)


def file_of(home: Path, service: str, rollout: int) -> Path:
    """Path of a rollout's record in the home folder."""
    return home / "incidents" / f"{service}-rollout-{rollout}.json"


def incident_record(chronicle: RolloutRecord) -> dict[str, Any]:
    """The record, as plain JSON. Times are Unix seconds; unknown values are null.

    For a rollout that was not taken back, `bad_bundle` is null and the rest shows how far it got.
    """
    ending, fired = chronicle.ending, chronicle.fired
    bad = chronicle.left
    answered = chronicle.requests.get(chronicle.candidate, record.RequestCounts())
    value = {
        "schema": SCHEMA,
        "service": chronicle.service,
        "rollout": chronicle.rollout,
        "outcome": chronicle.outcome,
        "summary": wording.headline(chronicle),
        "bad_bundle": bad,
        "candidate": chronicle.candidate,
        "good_bundle": chronicle.good,
        "proposed_at": chronicle.revisions[0].at,
        "onset": chronicle.onset,
        "onset_between": list(chronicle.onset_between) if chronicle.onset_between else None,
        "detected_at": _detected(chronicle),
        "decided": _decided(chronicle),
        "seconds": _seconds(chronicle),
        "requests": {
            "answered": answered.answered,
            "failed": answered.failed,
            "user_errors": answered.user_errors,
            "mirrored": answered.mirrored,
            "bad_by_gate": _bad_by_gate(chronicle, copies=False),
            "bad_copies_by_gate": _bad_by_gate(chronicle, copies=True),
        },
        "verdict": fired.to_json() if fired else None,
        "gates": [verdict.to_json() for verdict in chronicle.decided],
        "layers": [_layer(one) for one in chronicle.followed],
        "pages": [_page(page) for page in chronicle.pages],
        "verification": _verification(chronicle),
        "not_undone": list(release.NOT_UNDONE) if bad else [],
        "missing": list(chronicle.missing),
        "ended": ending is not None,
    }
    found: dict[str, Any] = plain.mended(value)
    return found


def _detected(chronicle: RolloutRecord) -> float | None:
    if chronicle.left is None or chronicle.ending is None:
        return None
    return chronicle.fired.at if chronicle.fired else chronicle.ending.at


def _decided(chronicle: RolloutRecord) -> dict[str, Any] | None:
    ending = chronicle.ending
    if ending is None:
        return None
    return {
        "revision": ending.number,
        "at": ending.at,
        "verb": ending.verb,
        "actor": ending.actor,
        "reason": ending.reason,
        "automatic": bool(chronicle.left and chronicle.decided),
    }


def _seconds(chronicle: RolloutRecord) -> dict[str, Any]:
    """Measured: `exposure` (the time the candidate had users), from the verdict to the commit, and until the traffic had moved.

    Estimated: everything that starts at the onset, because the onset is an estimate; `onset_to_verdict_between` gives its least and
    greatest plausible value.
    """
    measured = {"exposure": chronicle.exposure_s}
    detected, ending = _detected(chronicle), chronicle.ending
    if detected is None or ending is None:
        names = ("onset_to_verdict", "onset_to_verdict_between", "verdict_to_commit", "verdict_to_traffic", "onset_to_traffic")
        return {**dict.fromkeys(names), **measured}
    traffic = next((one.ms for one in chronicle.followed if one.layer == "traffic" and not one.at_most), None)
    moved = None if traffic is None else ending.at + traffic / 1000
    onset, between = chronicle.onset, chronicle.onset_between
    return {
        "onset_to_verdict": None if onset is None else max(detected - onset, 0.0),
        "onset_to_verdict_between": None if between is None else [max(detected - moment, 0.0) for moment in reversed(between)],
        "verdict_to_commit": max(ending.at - detected, 0.0),
        "verdict_to_traffic": None if moved is None else max(moved - detected, 0.0),
        "onset_to_traffic": None if moved is None or onset is None else max(moved - onset, 0.0),
        **measured,
    }


def _bad_by_gate(chronicle: RolloutRecord, *, copies: bool) -> dict[str, int]:
    """How many of the candidate's answers the gates counted as bad (failed, too slow, different), for users and for copies.

    Agreement is counted on copies only, in any phase.
    """
    sums: dict[str, int] = {}
    for analysis in chronicle.analyses:
        if analysis.watched == chronicle.candidate:
            for name, trail in analysis.trails.items():
                of_copies = analysis.kind == "shadow" or trail.verdict.metric == "agreement"
                if trail.verdict.metric in ("error_rate", "latency_p99", "agreement") and of_copies == copies:
                    sums[name] = sums.get(name, 0) + trail.watched.bad
    return sums


def _layer(one: record.Followed) -> dict[str, Any]:
    return {
        "layer": one.layer,
        "status": one.status,
        "desired": one.desired,
        "observed": one.observed,
        "ms": one.ms,
        "at_most": one.at_most,
        "detail": one.detail,
    }


def _page(page: Any) -> dict[str, Any]:
    names = ("revision", "key", "severity", "summary", "at", "delivered_at", "resolves")
    return {name: getattr(page, name) for name in names}


def _verification(chronicle: RolloutRecord) -> dict[str, Any] | None:
    verified = chronicle.verified
    if verified is None:
        return None
    outcome = verified.reason.partition(":")[0].replace(" ", "_")
    return {"outcome": outcome, "reason": verified.reason, "revision": verified.number, "at": verified.at}


def _write_file(file: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    try:
        if file.exists() and file.read_text("utf-8") == text:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, text, kept="fast")
    except OSError as error:
        raise errors.Unavailable(f"cannot write {file}: {error}; the audit trail has the record: 'lastgood audit export'") from error
