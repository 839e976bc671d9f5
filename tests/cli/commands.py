"""Every command of `lastgood` as click has it, and one call of each that would be right: what the sweeps are made from.

A new command without an entry, or an option of a kind that no sweep knows, fails `test_sweeps.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from lastgood import cli

SERVICE, BUNDLE, FILE = "SERVICE", "BUNDLE", "FILE"
"""Stand-ins in `CALLS`, put in by the test."""

CALLS: dict[str, tuple[str, ...]] = {
    "status": (SERVICE,),
    "history": (SERVICE,),
    "show": (SERVICE, BUNDLE),
    "diff": (SERVICE, BUNDLE, "stable"),
    "plan": (SERVICE, BUNDLE),
    "verify": (SERVICE, BUNDLE),
    "watch": (SERVICE, "--once"),
    "report": (SERVICE,),
    "promote": (SERVICE, BUNDLE, "--yes"),
    "approve": (SERVICE, "--reason", "x"),
    "rollback": (SERVICE, BUNDLE, "--yes"),
    "hold": (SERVICE, "--reason", "x"),
    "release-hold": (SERVICE,),
    "quarantine": (SERVICE, BUNDLE, "--reason", "x", "--yes"),
    "revoke": (SERVICE, BUNDLE, "--reason", "x", "--yes"),
    "audit verify": (SERVICE,),
    "audit export": (SERVICE,),
    "bundle list": (SERVICE,),
    "bundle verify": (SERVICE, BUNDLE),
    "bundle export": (SERVICE, BUNDLE),
    "bundle import": (FILE,),
    "index list": (),
    "index verify": (SERVICE, BUNDLE),
    "index retire": ("NAME",),
    "index hold": (SERVICE, BUNDLE, "--reason", "x"),
    "index release-hold": (SERVICE, BUNDLE, "--reason", "x"),
    "liveness": (SERVICE, "--offline"),
    "drift": (SERVICE,),
    "up": (SERVICE,),
    "down": (SERVICE, "--yes"),
    "doctor": (),
    "test-page": (SERVICE,),
    "demo": ("--service", SERVICE),
}

WITHOUT_BUNDLE = ("rollback", "plan", "show", "verify", "bundle verify", "index verify")
"""Commands whose BUNDLE may be left out: they are tried both ways."""

CREATES = ("up", "bundle import")
"""The only commands that may begin a ledger."""


def tree() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, subcommands included."""
    yield from _below(cli.app, ())


def _below(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _below(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def calls() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every command with its arguments, those whose BUNDLE may be left out twice."""
    for name, args in CALLS.items():
        yield name, args
        if name in WITHOUT_BUNDLE:
            yield name, tuple(arg for arg in args if arg != BUNDLE)


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option that takes a value, with its command."""
    for name, command in tree():
        for one in command.params:
            if isinstance(one, click.Option) and not one.is_flag:
                yield name, one
