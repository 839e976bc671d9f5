"""A running stack of the small project: workers, Envoy and controller, started and driven through the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench import measure, project
from lastgood import ledger, release
from lastgood.ops import local_stack as stack
from lastgood.settings import Settings
from lastgood.system import processes

ROOT = Path(__file__).resolve().parent.parent
WARM = 2
DRAINED_S = 30.0
LASTGOOD = Path(sys.executable).with_name("lastgood")


class Release(Protocol):
    """A registered bundle, and how to know its answers."""

    @property
    def bundle(self) -> str: ...

    def made(self, body: Mapping[str, Any]) -> bool:
        """True if an answer comes from this release and from nothing else."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What runs. `releases` by bundle id; `bad` is what the rollbacks leave, `good` what they go back to."""

    settings: Settings
    releases: Mapping[str, Release]
    good: Release
    bad: Release
    log: Path
    service: str = project.SERVICE

    @property
    def port(self) -> int:
        return project.port(self.settings, self.service)

    @property
    def environment(self) -> dict[str, str]:
        return stack.environment(self.settings)

    def lastgood(self, *args: str, codes: tuple[int, ...] = (0,)) -> measure.Ran:
        """Run `lastgood ARGS` as a process of its own. Raises RuntimeError unless it ends with one of *codes*."""
        done = measure.run([LASTGOOD, *args], env=self.environment, cwd=self.settings.project, log=self.log)
        if done.code not in codes:
            raise RuntimeError(f"lastgood {' '.join(args)} ended with {done.code}: {self.log.read_text('utf-8', 'replace')[-800:]}")
        return done

    def promote(self, wanted: Release) -> dict[str, Any]:
        """Release *wanted* and wait for every layer; what it printed."""
        override = ("--override-quarantine", "--reason", "measured again")
        done = self.lastgood("promote", self.service, wanted.bundle, *override, "--yes", "--json")
        return dict(json.loads(done.out))

    def wait_until_drained(self) -> None:
        """Until only stable and previous have workers, as it is some seconds after every release."""
        deadline = time.monotonic() + DRAINED_S
        while len(processes.running(self.settings.run(self.service) / "workers")) > WARM:
            if time.monotonic() > deadline:
                raise RuntimeError(f"a worker that nobody needs still runs after {DRAINED_S:g} s; read {self.settings.home / 'logs'}")
            time.sleep(0.1)

    def revision(self, number: int) -> ledger.Revision:
        """One revision from the ledger."""
        with release.open_context(self.settings, read_only=True) as ctx:
            return ctx.ledger.revision(self.service, number)

    def newest(self) -> ledger.Revision:
        """The newest revision from the ledger."""
        with release.open_context(self.settings, read_only=True) as ctx:
            return ctx.ledger.history(self.service, limit=1)[0]


@contextlib.contextmanager
def up(folder: Path, *, older: bool, registry: str = "") -> Iterator[Stack]:
    """A stack that serves `good`, with `bad` registered; stopped at the end. With *older* there was a release before both."""
    settings = project.make(folder, registry=registry)
    with release.open_context(settings) as ctx:
        releases = [project.build(ctx, number) for number in ((1, 2, 3) if older else (2, 3))]
    found = Stack(
        settings=settings, releases={one.bundle: one for one in releases}, good=releases[-2], bad=releases[-1], log=folder / "commands.log"
    )
    with serving(found, releases[:-1]):
        yield found


@contextlib.contextmanager
def serving(stack: Stack, released: Sequence[Release]) -> Iterator[None]:
    """*stack* started, with *released* promoted one after the other; stopped at the end."""
    try:
        stack.lastgood("up", stack.service, "--json", codes=(0, 6))
        for one in released:
            stack.promote(one)
        yield
    finally:
        stack.lastgood("down", stack.service, "--yes", codes=(0, 1, 2, 3, 4, 6, 7))
