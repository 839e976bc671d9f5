"""The helpdesk's two releases, switched repeatedly under load: is any answer made of both? Compared with serving by MLflow's aliases."""

from __future__ import annotations

from pathlib import Path

from bench import aliases, flips, helpdesk_project, running
from bench.table import Table
from lastgood import release

RATE = 100.0


def measured(folder: Path, *, count: int, control: int) -> Table:
    """*count* flips of the helpdesk, *control* switches of the aliases (none: no control)."""
    settings = helpdesk_project.make(folder / "project")
    with release.open_context(settings) as ctx:
        good, bad = (helpdesk_project.build(ctx, number) for number in range(2))
    stack = running.Stack(
        settings=settings,
        releases={one.bundle: one for one in (good, bad)},
        good=good,
        bad=bad,
        log=folder / "commands.log",
        service=helpdesk_project.SERVICE,
    )
    with running.serving(stack, [good]):
        found = flips.measure_flips(stack, count=count, out=folder / "flips.jsonl", rate=RATE, bodies=helpdesk_project.bodies(settings))
    controls = [aliases.measure_load_prompt(folder / "aliases", count=control)] if control else []
    asked = (
        f"{helpdesk_project.QUESTIONS} questions in turn, {RATE:.0f} requests/s over 8 connections, answers cached under their bundle. "
        "The releases differ in corpus, embedder, prompt and index. Mixed: the answer names another bundle, model, prompt, index or "
        "configuration than the header, or was made of another index or prompt by what the answering code had open."
    )
    return flips.table(found, controls, title="flips of the whole helpdesk under load", asked=asked)
