"""What the verbs share: options, who is asking, asking back, and printing."""

from __future__ import annotations

import contextlib
import datetime
import functools
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from lastgood import errors

if TYPE_CHECKING:
    from lastgood import release, rollout

Command = Callable[..., Any]


def complete_services(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of services, for the shell's completion."""
    from lastgood import settings

    folder = settings.load().services
    return sorted(p.parent.name for p in folder.glob("*/service.yaml") if p.parent.name.startswith(incomplete))


def complete_bundles(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Short ids of the service's bundles, for the shell's completion."""
    from lastgood import bundle

    service = ctx.params.get("service")
    if not service:
        return []
    with context(read_only=True) as here:
        known = [bundle.short(row.bundle.id) for row in here.ledger.bundles(service)]
    return [short for short in (*known, "stable", "candidate", "previous") if short.startswith(incomplete)]


def service_argument(command: Command) -> Command:
    """The argument SERVICE, completed from the project's folder."""
    return click.argument("service", shell_complete=complete_services)(command)


def bundle_argument(name: str = "bundle", *, required: bool = True) -> Callable[[Command], Command]:
    """The argument for a bundle, completed from the ledger."""
    return click.argument(name, required=required, shell_complete=complete_bundles)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object with a stable schema.")


def change_options(command: Command) -> Command:
    """Options of every verb that changes something."""
    options = [
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Show what would happen and change nothing."),
        click.option("--reason", default=None, help="Why; kept for ever in the audit trail."),
        click.option("--actor", default=None, help="Who is asking. Default: LASTGOOD_ACTOR or your user name."),
        click.option("--wait/--no-wait", default=True, help="Wait until every layer has followed (default)."),
        click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds to wait; never cancels the work."),
        click.option("--expect", "expected", type=int, default=None, help="Only if the service is still at this revision."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@contextlib.contextmanager
def context(*, read_only: bool = False) -> Iterator[release.Context]:
    """The ledger and the store as the settings say."""
    from lastgood import release, settings

    with release.open_context(settings.load(), read_only=read_only) as opened:
        yield opened


def actor(given: str | None) -> str:
    """Who is asking, for the audit trail."""
    if given or os.environ.get("LASTGOOD_ACTOR"):
        return given or os.environ["LASTGOOD_ACTOR"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def known_state(ctx: release.Context, service: str) -> rollout.State:
    """The state of a service that has been released. Raises NotFound."""
    state = ctx.ledger.state(service)
    if state.revision == 0:
        known = ", ".join(ctx.ledger.services()) or "none yet"
        raise errors.NotFound(f"{service!r} has never been released; services in this ledger: {known}")
    return state


def confirm(question: str, *, yes: bool) -> bool:
    """True if a person on the terminal said yes; False if `--yes` answered for them. Raises ConfirmationNeeded or Abort."""
    if yes:
        return False
    if not sys.stdin.isatty():
        raise errors.ConfirmationNeeded(f"{question} cannot be asked: no terminal; add --yes if you mean it, --dry-run to look first")
    click.confirm(question, abort=True, err=True)
    return True


def emit(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print *value* as JSON, or its text for people."""
    click.echo(json.dumps(value, default=str) if as_json else plain(text()))


def say(message: str) -> None:
    """Talk: to stderr, so that stdout stays data."""
    click.echo(plain(message), err=True)


def plain(text: str) -> str:
    """*text*, lines kept, without anything else that could steer a terminal: reasons come from people."""
    return "\n".join("".join(map(_harmless, line)) for line in text.split("\n"))


def _harmless(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "?"


def moment(at: float | None) -> str:
    """Unix time for people, in UTC and to the second."""
    if at is None:
        return "-"
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ago(seconds: float) -> str:
    """A length of time in the largest two units: `2 h 5 min`."""
    whole = int(max(seconds, 0))
    units = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    shown = [f"{count} {unit}" for count, unit in units if count]
    return " ".join(shown[:2]) or "0 s"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Left-aligned columns, as plain text that survives a pager and a paste."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (header, *rows)]
    return "\n".join(lines)
