"""The verbs: each is a guard, one decision of the pure core, and one ledger transaction.

A verb returns as soon as the ledger has committed; `lastgood.release.convergence` makes the layers follow.
Nothing here imports a heavy library: this code path has to work at 3 AM.

What does not belong here: rules (`core`), SQL (`ledger`), how a layer is changed (`layers`).
"""

from lastgood.context import Clock, Context, check_known, check_there, open_context
from lastgood.release.holds import hold, release_hold
from lastgood.release.promotion import OWN, PhaseOverride, approve, chain_of, plan_propose, propose
from lastgood.release.registration import register
from lastgood.release.request import Request
from lastgood.release.rollback import (
    ATTEMPTS,
    NOT_UNDONE,
    SAME_ALARM_S,
    SAME_PAGE_S,
    WAYS_BACK,
    check_not_the_same_alarm,
    condemn,
    lift,
    plan_roll_back,
    roll_back,
    verify_s,
)
from lastgood.release.targets import DEEP_VERIFY_BYTES, missed_limits
from lastgood.release.transaction import Committed, check_expected, check_planned, commit, last_move

__all__ = [
    "ATTEMPTS",
    "DEEP_VERIFY_BYTES",
    "NOT_UNDONE",
    "OWN",
    "SAME_ALARM_S",
    "SAME_PAGE_S",
    "WAYS_BACK",
    "Clock",
    "Committed",
    "Context",
    "PhaseOverride",
    "Request",
    "approve",
    "chain_of",
    "check_expected",
    "check_known",
    "check_not_the_same_alarm",
    "check_planned",
    "check_there",
    "commit",
    "condemn",
    "hold",
    "last_move",
    "lift",
    "missed_limits",
    "open_context",
    "plan_propose",
    "plan_roll_back",
    "propose",
    "register",
    "release_hold",
    "roll_back",
    "verify_s",
]
