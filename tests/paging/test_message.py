"""What stands in a page: what happened, which bundles, the figures, what was done, what to type."""

from __future__ import annotations

import shlex

import click
import pytest

from lastgood.cli import app
from lastgood.paging import message
from tests.paging.pager import BAD, BODY, STABLE, VERDICT, page


def test_the_page_of_a_failed_release():
    """Severity and summary first, then when, who did what, the bundles, the figures of the gate, and commands."""
    assert message.text(page()).splitlines() == [
        "[critical] flights: candidate b2b2b2b2b2b2 was taken out",
        "when: 2023-11-14 22:13:20 UTC, revision 7 of flights, done: rollback, by controller",
        "bundles: stable a1a1a1a1a1a1, candidate none (was b2b2b2b2b2b2)",
        "gate errors: error_rate 0.125 against 0.01, difference within 0.08 to 0.17, n=4000: fail: worse by 11.5 points",
        "next: lastgood report flights --rollout 4",
        "next: lastgood promote flights b2b2b2b2b2b2 --override-quarantine --reason WHY",
        "next: lastgood status flights",
    ]


def test_a_page_that_goes_with_no_change():
    """With nothing but a verdict, or nothing at all, there is still what happened, when, and a command."""
    alone = message.text(page(key="stranded", body=VERDICT)).splitlines()
    assert alone[1:3] == [
        "when: 2023-11-14 22:13:20 UTC, revision 7 of flights",
        "gate errors: error_rate 0.125 against 0.01, difference within 0.08 to 0.17, n=4000: fail: worse by 11.5 points",
    ]
    assert message.text(page(key="x", body={})).splitlines()[2:] == ["next: lastgood status flights"]


def test_a_damaged_body_is_told():
    """Whoever reads the page learns that the details are missing, and what to do."""
    assert "run 'lastgood audit verify'" in message.text(page(body={"damaged": "it is broken; run 'lastgood audit verify'"}))


def test_after_a_step_back_of_stable_the_bundle_left_is_named():
    """What a person may want back is the bundle that served, not the candidate that never did."""
    body = {**BODY, "stable": STABLE, "before": {"stable": BAD, "candidate": None}}
    assert "lastgood promote flights b2b2b2b2b2b2 --override-quarantine --reason WHY" in message.commands(page(body=body))


KEYS = (
    "rollout-4", "bundle-b2b2b2b2b2b2", "approval-4", "hold-errors", "breaker", "stranded", "release", "skip", "clock-a/1", "nobody-decides",
    "cold-b2b2b2b2b2b2", "not-followed-b2b2b2b2b2b2",
)  # fmt: skip


@pytest.mark.parametrize("resolves", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_commands_are_understood(key: str, resolves: bool):
    """Each command that a page names is one that the command line takes as it stands, but for the words in capitals."""
    told = message.commands(page(key=key, resolves=resolves))
    assert told[-1] == "lastgood status flights"
    assert len(told) == len(set(told))
    for line in told:
        program, verb, *arguments = shlex.split(line)
        assert program == "lastgood"
        command = app
        context = click.Context(app)
        while isinstance(command, click.Group):
            command = command.get_command(context, verb)
            assert command is not None, line
            if isinstance(command, click.Group):
                verb, *arguments = arguments
        command.make_context(verb, [argument.replace("BUNDLE", "abcd") for argument in arguments])


def test_the_first_command_fits_the_page():
    """Approval is asked for, a hold is released, a stranded service needs another bundle; when it is over, only a look."""
    first = {key: message.commands(page(key=key))[0].split()[1:3] for key in KEYS if key != "skip"}
    assert first["approval-4"] == ["approve", "flights"]
    assert first["hold-errors"] == first["breaker"] == ["history", "flights"]
    assert first["rollout-4"] == first["bundle-b2b2b2b2b2b2"] == ["report", "flights"]
    assert first["stranded"] == ["bundle", "list"]
    assert message.commands(page(resolves=True)) == ["lastgood status flights"]


def test_keys_are_stable_and_not_too_long():
    """Revision, severity and whether it resolves do not change the key; long ones stay different within 255 characters."""
    assert {message.dedup_key(page(**change)) for change in ({}, {"revision": 9}, {"severity": "info"}, {"resolves": True})} == {
        "lastgood/flights/rollout-4"
    }
    long = [message.dedup_key(page(key="k" * 300 + end)) for end in ("a", "b")]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= message.MAX_KEY
    exact = "k" * (255 - len("lastgood/flights/"))
    assert message.dedup_key(page(key=exact)).endswith("/" + exact)
