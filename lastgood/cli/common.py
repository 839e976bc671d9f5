"""Shared by the verbs: options, the actor's name, confirmation, and printing."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lastgood import errors
from lastgood.core.state import State
from lastgood.system import text

if TYPE_CHECKING:
    from lastgood import release

Command = Callable[..., Any]


def complete_services(_ctx: click.Context | None, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of services, for shell completion."""
    from lastgood import settings

    folder = settings.load().services
    return sorted(p.parent.name for p in folder.glob("*/service.yaml") if p.parent.name.startswith(incomplete))


def complete_bundles(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Short ids of the service's bundles, for shell completion."""
    from lastgood.bundle import manifest

    service = ctx.params.get("service")
    if not service:
        return []
    with context(read_only=True) as here:
        known = [manifest.short(row.bundle.id) for row in here.ledger.bundles(service)]
    return [short for short in (*known, "stable", "candidate", "previous") if short.startswith(incomplete)]


class ServiceName(click.types.StringParamType):
    """The name of a service; if it is missing, the error lists the existing ones."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        with contextlib.suppress(errors.LastgoodError, OSError):
            known = complete_services(ctx, param, "")
            return (
                f"Services here: {', '.join(known)}." if known else "There are no services here; change to the project's folder with 'cd'."
            )
        return ""


def service_argument(command: Command) -> Command:
    """The argument SERVICE, with completion from the project's folder."""
    return click.argument("service", type=ServiceName(), shell_complete=complete_services, callback=_service_name)(command)


def service_arguments(command: Command) -> Command:
    """The arguments NAMES: any number of services."""
    return click.argument("names", nargs=-1, shell_complete=complete_services, callback=_service_names)(command)


def _service_names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_service_name(ctx, param, value) for value in values))


def _service_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Invalid names are refused before anything is opened, because the name becomes part of paths."""
    from lastgood.bundle import manifest

    return manifest.check_service_name(value)


def bundle_argument(name: str = "bundle", *, required: bool = True) -> Callable[[Command], Command]:
    """The argument for a bundle, with completion from the ledger."""
    return click.argument(name, required=required, shell_complete=complete_bundles, callback=_not_empty)


def _not_empty(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """An empty value is an unset shell variable, not an omitted bundle, and is refused."""
    if value == "":
        raise errors.UsageError(f"{(param.name or 'bundle').upper()} is empty; name a bundle, or omit the argument")
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object with a stable schema.")


def change_options(command: Command) -> Command:
    """Options of every verb that changes something."""
    options = [
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
        click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing."),
        click.option("--reason", default=None, help="Why; kept permanently in the audit trail."),
        click.option("--actor", default=None, help="Who makes this change (default: LASTGOOD_ACTOR or your user name)."),
        click.option("--wait/--no-wait", default=True, help="Wait until every layer has converged (default: wait)."),
        click.option(
            "--timeout",
            "timeout_s",
            type=seconds(),
            default=30.0,
            show_default=True,
            help="Seconds to wait; the change itself continues after that.",
        ),
        click.option(
            "--expect", "expected", type=revision_number(), default=None, help="Refuse unless the service is still at this revision."
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


class Number(click.FloatRange):
    """A finite number in a range: click's own type accepts NaN for every range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(found)


class OutFile(click.Path):
    """A file to be written."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not Path(value).name:
            self.fail(f"{value!r} is not a file name.", param, ctx)
        return super().convert(value, param, ctx)


MOST_S = 366 * 86_400.0
"""The longest wait, in seconds, that an option accepts."""

MOST = 2**31 - 1
"""The largest count or revision number that an option accepts; every ledger can hold it."""


def seconds(*, least: float = 0.0) -> Number:
    """The type of an option that is a wait in seconds."""
    return Number(min=least, max=MOST_S)


def count() -> click.IntRange:
    """The type of an option that is a count."""
    return click.IntRange(min=1, max=MOST)


def revision_number() -> click.IntRange:
    """The type of an option that is a revision number; 0 is the state before the first revision."""
    return click.IntRange(min=0, max=MOST)


def port_number() -> click.IntRange:
    """The type of an option that is a TCP port."""
    return click.IntRange(min=1, max=65_535)


def check_arguments(args: Sequence[str]) -> None:
    """Raise UsageError for an argument that cannot be a file name or be stored in the ledger."""
    for arg in args:
        if "\0" in arg or any("\ud800" <= letter <= "\udfff" for letter in arg):
            raise errors.UsageError(f"{arg[:100]!r} is not plain text; remove NUL characters and anything that is not valid UTF-8")


@contextlib.contextmanager
def context(*, read_only: bool = False, create: bool = False, service: str | None = None) -> Iterator[release.Context]:
    """The ledger and the store named in the settings. Raises NotFound if there is no ledger (unless *create*), or no *service* in it."""
    from lastgood import release, settings

    with release.open_context(settings.load(), read_only=read_only, create=create, service=service) as opened:
        yield opened


def actor(given: str | None) -> str:
    """The name of the person or program making the request, for the audit trail."""
    if given or os.environ.get("LASTGOOD_ACTOR"):
        return given or os.environ["LASTGOOD_ACTOR"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def known_state(ctx: release.Context, service: str) -> State:
    """The state of a service that has been released. Raises NotFound."""
    state = ctx.ledger.state(service)
    if state.revision == 0:
        known = ", ".join(ctx.ledger.services()) or "none yet"
        raise errors.NotFound(f"{service!r} has never been released; services in this ledger: {known}")
    return state


def confirm(question: str, *, yes: bool) -> bool:
    """True if a person at the terminal confirmed; False if `--yes` did. Raises ConfirmationNeeded or Abort."""
    if yes:
        return False
    if not sys.stdin.isatty():
        raise errors.ConfirmationNeeded(
            f"cannot ask {question!r}: there is no terminal; add --yes to confirm, or --dry-run to see the plan first"
        )
    click.confirm(question, abort=True, err=True)
    return True


def emit(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print *value* as JSON, or as its text for people."""
    click.echo(json.dumps(value, default=str) if as_json else plain(text()))


def say(message: str) -> None:
    """Print a message to stderr, so that stdout carries only data."""
    click.echo(plain(message), err=True)


def plain(text: str) -> str:
    """*text* with its lines, but without anything else that could affect a terminal: reasons are written by people."""
    return "\n".join("".join(map(_harmless, line)) for line in text.split("\n"))


def in_line(text: str) -> str:
    """*text* on one line, for text written by people: a line of its own could be mistaken for ours."""
    return text.replace("\n", " ")


def _harmless(char: str) -> str:
    return char if char.isprintable() else " " if char.isspace() else "?"


def moment(at: float | None) -> str:
    """Unix time for a table column, in UTC to the second."""
    if at is None:
        return "-"
    return text.moment(at).replace(" UTC", "Z")


def ago(seconds: float) -> str:
    """A duration in its two largest units: `2 h 5 min`."""
    whole = int(max(seconds, 0))
    units = ((whole // 86400, "d"), (whole % 86400 // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s"))
    shown = [f"{count} {unit}" for count, unit in units if count]
    return " ".join(shown[:2]) or "0 s"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Left-aligned columns, as plain text that survives a pager and a paste."""
    rows = [tuple(map(in_line, line)) for line in rows]
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (header, *rows)]
    return "\n".join(lines)
