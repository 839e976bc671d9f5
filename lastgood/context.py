"""The ledger and the store that the verbs work on, and whose configuration counts: opened, made ready on first use, and never begun anew by a look.

What does not belong here: the verbs (`release`), whether a home can be trusted (`system.permissions`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from lastgood import errors
from lastgood import ledger as ledgers
from lastgood.bundle import store as bundle_store
from lastgood.core.state import State
from lastgood.ledger.postgres import without_password
from lastgood.service import frozen, schema
from lastgood.settings import Settings
from lastgood.system import clock as system_clock
from lastgood.system import permissions, signing

Clock = Callable[[], float]
"""Gives the Unix time in seconds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the verbs work on, and the clock that they go by."""

    settings: Settings
    ledger: ledgers.Ledger
    store: bundle_store.Store
    clock: Clock = system_clock.now

    def with_clock(self, clock: Clock) -> Context:
        """The same ledger and store, by another clock."""
        return dataclasses.replace(self, clock=clock)


@contextlib.contextmanager
def open_context(settings: Settings, *, read_only: bool = False, create: bool = True, service: str | None = None) -> Iterator[Context]:
    """The ledger and the store of *settings*, made ready on first use; closed at the end.

    Without *create* there has to be a ledger already: only `up` and registering a bundle begin one, for a command in the
    wrong folder must not find an empty ledger and say that all is well. With *read_only* nothing is created or migrated at
    all, so it works on a read-only disk. *service* is a name that has to be known there. What is written meanwhile is for this
    user alone. Raises NotFound, Unavailable or Damaged, and NotAllowed for a home that another user owns or may write.
    """
    permissions.check_home(settings.home)
    create = create and not read_only
    with contextlib.ExitStack() as opened:
        if not read_only:
            opened.enter_context(permissions.files())
        if create:
            _prepare_home(settings)
            _check_not_lost(settings)
        else:
            check_there(settings, service=service)
        ctx = opened.enter_context(_connected(settings, read_only=read_only, create=create, service=service))
        follow = system_clock.look if read_only else system_clock.anchor
        follow(settings.home)
        yield ctx


@contextlib.contextmanager
def _connected(settings: Settings, *, read_only: bool, create: bool, service: str | None) -> Iterator[Context]:
    with ledgers.connect(
        settings.ledger_url,
        busy_timeout_s=settings.ledger.busy_timeout_s,
        read_only=read_only,
        ballast_bytes=settings.ledger.ballast_bytes,
    ) as connected:
        if not create and settings.ledger.url and connected.schema_version() == 0:
            raise errors.NotFound(_nothing_here(settings, without_password(settings.ledger.url), service=service))
        if create:
            connected.migrate()
        if service is not None:
            check_known(connected, service)
        if not create and not read_only:
            _prepare_home(settings)
            connected.migrate()
        yield Context(settings=settings, ledger=connected, store=bundle_store.Store(settings.store))


def judged_by(ctx: Context, state: State) -> schema.Service:
    """The configuration that says how the release is judged: the candidate's own, else that of the stable bundle."""
    if state.candidate is not None:
        found = frozen.read(ctx.ledger.bundle(state.candidate), store=ctx.store)
        if found is not None:
            return found
    return read_service(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)


def read_service(state: State, *, ledger: ledgers.Ledger, store: bundle_store.Store, settings: Settings) -> schema.Service:
    """The configuration frozen in the stable bundle; the project's own before the first release, or if that is damaged.

    The layers have to be driven even then: what they need of it (a port, time limits) seldom differs.
    """
    serving = state.stable or state.candidate
    if serving is not None:
        with contextlib.suppress(errors.NotFound, errors.Damaged):
            found = frozen.read(ledger.bundle(serving), store=store)
            if found is not None:
                return found
    return schema.load(settings.services / state.service)


def check_known(book: ledgers.Ledger, service: str) -> None:
    """Raise NotFound, naming the services that there are, if *book* has neither a bundle nor a revision of *service*."""
    known = book.services()
    if service not in known and not book.newest(service):
        import difflib  # only whoever mistypes waits for it

        near = difflib.get_close_matches(service, known, n=1)
        meant = f"did you mean {near[0]!r}? else " if near else ""
        raise errors.NotFound(
            f"{service!r} has no bundle and has never been released; services in this ledger: {', '.join(known) or 'none yet'}; "
            f"{meant}name one of them, or build a bundle of {service!r} first"
        )


def check_there(settings: Settings, *, service: str | None = None) -> None:
    """Raise NotFound, saying where was looked, if the ledger is a file that has never been there; Unavailable if it is lost."""
    file = settings.ledger_file
    if file is None or file.exists():
        return
    _check_not_lost(settings)
    raise errors.NotFound(_nothing_here(settings, str(file), service=service))


def _nothing_here(settings: Settings, where: str, *, service: str | None) -> str:
    """What was looked for and where; `up` is named only in a folder that has services, for elsewhere it would begin nothing."""
    told = f"{service!r} has never been released here: " if service else ""
    begins = "; 'lastgood up' creates a new one" if any(settings.services.glob(f"*/{schema.FILE}")) else ""
    return (
        f"{told}there is no ledger at {where} (project {settings.project}, home {settings.home}); change to the project's folder with 'cd', "
        f"or set LASTGOOD_PROJECT or LASTGOOD_HOME{begins}"
    )


def _prepare_home(settings: Settings) -> None:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        permissions.close_home(settings.home)
        signing.init_keys(settings.keys)
    except OSError as error:
        if not settings.home.is_dir():
            raise errors.Unavailable(
                f"cannot create {settings.home}: {error}; set LASTGOOD_HOME to a folder that you can write to"
            ) from error


def _check_not_lost(settings: Settings) -> None:
    """A new, empty ledger must never take the place of one that is missing: it would know no last good bundle."""
    if settings.ledger.url or (settings.home / "ledger.db").exists() or not any((settings.home / "audit").glob("*.jsonl")):
        return
    raise errors.Unavailable(
        f"the ledger {settings.home / 'ledger.db'} is missing although this home has made releases; the serving bundle keeps serving; "
        "restore the file from a backup"
    )
