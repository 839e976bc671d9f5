"""The command line: `lastgood VERB SERVICE`.

Data goes to stdout, messages go to stderr, `--json` prints one object with a stable schema. Exit codes are those of
`lastgood.errors`, plus 130 when interrupted. Each verb lives in a module that is imported only when it is
called, so that `lastgood rollback` starts as fast as Python itself.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence

import click

from lastgood import errors
from lastgood.system import permissions

_VERBS = {
    "status": "status",
    "history": "inspect",
    "show": "inspect",
    "diff": "inspect",
    "plan": "inspect",
    "verify": "inspect",
    "watch": "watch",
    "report": "watch",
    "promote": "release",
    "approve": "release",
    "rollback": "release",
    "hold": "release",
    "release-hold": "release",
    "quarantine": "release",
    "revoke": "release",
    "audit": "audit",
    "bundle": "bundles",
    "index": "index",
    "liveness": "liveness",
    "drift": "drift",
    "up": "stack",
    "down": "stack",
    "doctor": "doctor",
    "test-page": "page",
    "demo": "stack",
}

EPILOG = """
\b
Exit codes: 0 done, 1 error, 2 usage or confirmation needed, 3 conflict or stale plan,
4 not allowed, 5 gate failed and rolled back, 6 partly converged, 7 nothing to do,
130 interrupted.
\b
Completion: eval "$(_LASTGOOD_COMPLETE=bash_source lastgood)" (or zsh_source, fish_source).
"""


class Verbs(click.Group):
    """Finds a verb by name and imports only its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"lastgood.cli.{_VERBS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but a mistyped verb gets suggestions: click cannot make any, because the verbs are not imported yet."""
        if args and args[0] not in _VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            import difflib  # only a mistyped verb pays for this import

            near = difflib.get_close_matches(args[0], _VERBS)
            meant = f"did you mean {' or '.join(map(repr, near))}?" if near else "'lastgood --help' lists all commands"
            raise click.UsageError(f"There is no command {args[0]!r}; {meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each verb with its whole first sentence or two of help, which click would truncate."""
        rows = [(name, command.get_short_help_str(1000)) for name in _VERBS if (command := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lastgood", prog_name="lastgood")
def app() -> None:
    """Release and roll back a whole AI system as one unit."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; errors are turned into text only here."""
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in args
    try:
        _check(args)
        with permissions.files():
            code = app.main(args=args, prog_name="lastgood", standalone_mode=False) or 0
    except errors.LastgoodError as error:
        code = _say(error, as_json=as_json)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.UsageError as error:
        if as_json:
            code = _say(errors.UsageError(error.format_message()), as_json=True)
        else:
            error.show()
            code = 2
    except click.ClickException as error:
        code = _say(errors.LastgoodError(error.format_message()), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo("lastgood: interrupted; a change that was committed stays committed, see 'lastgood status SERVICE'", err=True)
        code = 130
    except BrokenPipeError:
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _check(args: Sequence[str]) -> None:
    from lastgood.cli import common

    common.check_arguments(args)


def _say(error: errors.LastgoodError, *, as_json: bool) -> int:
    if as_json:
        body = {
            "schema": "lastgood.error/v1",
            "error": type(error).__name__,
            "message": str(error),
            "changed": error.changed,
            "retryable": error.retryable,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(body))
    else:
        from lastgood.cli import common

        common.say(f"lastgood: {error}")
    return error.exit_code
