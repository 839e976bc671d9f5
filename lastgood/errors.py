"""Every error a user can meet, as one tree.

    LastgoodError          1   something went wrong
    ├── UsageError         2   the call cannot be understood, or a person must confirm it
    │   ├── NotFound       2   no such service, bundle, alias or revision
    │   └── ConfirmationNeeded 2
    ├── Conflict           3   somebody else changed the service first, or the plan is stale
    ├── NotAllowed         4   a rule forbids it: quarantined, revoked, held, unverified
    ├── GateFailed         5   the release was judged bad and has been rolled back
    ├── PartlyConverged    6   the change is committed; some layer has not followed yet
    ├── NothingToDo        7   the service is already as asked
    ├── Damaged            1   stored bytes do not match what was recorded
    ├── Unavailable        1   the ledger, a disk or a process cannot be reached just now
    └── PromotionFailed    1   the new bundle never became ready; stable was not touched

The type answers two questions an operator has: did anything change (`changed`), and may I simply
try again (`retryable`). Messages are lower-case, quote values with `repr`, and end with the remedy.
The number is the exit code of the command line, which other people's scripts rely on.
"""

from __future__ import annotations

from typing import ClassVar


class LastgoodError(Exception):
    """Something went wrong; the message says what to do about it."""

    exit_code: ClassVar[int] = 1
    changed: ClassVar[bool] = False
    retryable: ClassVar[bool] = False


class UsageError(LastgoodError):
    """The call itself is wrong; nothing was read or changed."""

    exit_code = 2


class NotFound(UsageError):
    """A name does not resolve to exactly one thing."""


class ConfirmationNeeded(UsageError):
    """A person must confirm, and there is no terminal to ask on."""


class Conflict(LastgoodError):
    """The service moved on since it was looked at; look again, then decide again."""

    exit_code = 3


class NotAllowed(LastgoodError):
    """A rule of the release model forbids this; trying again will not help."""

    exit_code = 4


class GateFailed(LastgoodError):
    """The release was judged bad; it has been rolled back."""

    exit_code = 5
    changed = True


class PartlyConverged(LastgoodError):
    """The change is in the ledger; at least one layer has not followed within the time given."""

    exit_code = 6
    changed = True
    retryable = True


class NothingToDo(LastgoodError):
    """The service is already as asked."""

    exit_code = 7


class Damaged(LastgoodError):
    """Stored bytes do not match their recorded digest, or a record does not parse."""


class Unavailable(LastgoodError):
    """Something needed cannot be reached right now; nothing was changed."""

    retryable = True


class PromotionFailed(LastgoodError):
    """The new bundle never became ready; stable was not touched."""

    changed = True
