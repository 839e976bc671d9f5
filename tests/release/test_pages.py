"""Pages of a release under way: with the change that they belong to, or not at all; never twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, ledger, release
from lastgood.core.state import State
from lastgood.gates import base
from lastgood.release import advance
from lastgood.system import failpoints
from lastgood.testing import projects
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story

GATES = """\
gates:
  errors: {metric: error_rate, window_s: 10, min_samples: 100}
  slow: {metric: latency_p99, max_ms: 100, window_s: 10, min_samples: 100, settle_s: 0, kind: signal}
"""
ROOT = Path(__file__).parents[2]
POINTS = (
    "release.before_cutover",
    "release.before_append",
    "ledger.after_begin",
    "ledger.after_revision_insert",
    "ledger.after_marks",
    "ledger.before_commit",
    "ledger.after_commit",
    "release.after_append",
)
LOST = ledger.Fence(name=f"{SERVICE}/gates", holder="a controller that was frozen", token=1)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A candidate in its shadow phase."""
    with stories.begun(tmp_path, gates=GATES) as begun:
        begun.first()
        begun.propose(2.0)
        begun.go_on(until="advance")
        yield begun


def failed(gate: str, *, kind: str) -> base.Verdict:
    """What a gate says that has failed."""
    return base.Verdict(gate=gate, metric=gate, kind=kind, outcome="fail", cause="decided", why=f"{gate} failed", at=0.0)  # type: ignore[arg-type]


VERDICTS = {"errors": failed("errors", kind="guardrail"), "slow": failed("slow", kind="signal")}
"""The guardrail takes the candidate out, and the signal pages that it goes no further."""


def judged(ctx: release.Context, state: State, fence: ledger.Fence | None = None) -> release.Committed | None:
    """One look at a release whose gates have failed."""
    return advance.advance(ctx, SERVICE, ready=(), verdicts=VERDICTS, judged_at=state.revision, actor="controller", fence=fence)


def told(ctx: release.Context) -> list[str]:
    """The keys of the pages that there are, without the numbers."""
    return sorted(page.key.partition("-")[0] for page in ctx.ledger.pages(SERVICE))


def test_a_decision_that_is_fenced_off_pages_nobody(story: Story) -> None:
    """Another host has the lease: what this one would have decided has not happened."""
    state = story.state()
    assert judged(story.ctx, state, fence=LOST) is None
    assert story.state() == state
    assert told(story.ctx) == []


@pytest.mark.parametrize("fence", [None, LOST], ids=["decides", "fenced off"])
def test_a_page_that_goes_with_no_change_needs_the_lease_as_well(story: Story, fence: ledger.Fence | None) -> None:
    """A signal has failed and nothing is due; or what serves is bad, a person holds the service, and nothing is left to go back to."""
    state = story.state()
    slow = {"slow": VERDICTS["slow"]}
    asked = {"ready": (), "actor": "controller", "fence": fence}
    assert advance.advance(story.ctx, SERVICE, verdicts=slow, judged_at=state.revision, **asked) is None  # type: ignore[arg-type]
    assert told(story.ctx) == ([] if fence else ["signal"])
    release.roll_back(story.ctx, SERVICE, release.Request(actor="ann", reason="called off"), to=state.stable)
    release.hold(story.ctx, SERVICE, release.Request(actor="ann", reason="holidays"))
    state, before = story.state(), told(story.ctx)
    bad = {"errors": VERDICTS["errors"]}
    assert advance.advance(story.ctx, SERVICE, verdicts=bad, judged_at=state.revision, **asked) is None  # type: ignore[arg-type]
    assert told(story.ctx) == (before if fence else [*before, "stranded"])


def test_a_commit_that_finds_the_disk_full_pages_nobody(story: Story) -> None:
    """The look after it decides the same, and its pages come with the change."""
    state = story.state()
    with failpoints.armed("ledger.after_revision_insert=raise:ENOSPC"), pytest.raises((errors.Unavailable, OSError)):
        judged(story.ctx, state)
    assert told(story.ctx) == []
    assert judged(story.ctx, state) is not None
    assert told(story.ctx) == ["rollout", "signal"]


def test_a_page_that_goes_with_a_commit_is_not_told_again(story: Story) -> None:
    """The signal was paged alone at the look before; the decision that then comes pages itself only."""
    state = story.state()
    only = {"slow": VERDICTS["slow"]}
    for _ in range(2):
        assert advance.advance(story.ctx, SERVICE, ready=(), verdicts=only, judged_at=state.revision, actor="controller") is None
    assert told(story.ctx) == ["signal"]
    assert judged(story.ctx, state) is not None
    assert told(story.ctx) == ["rollout", "signal"]
    alone = next(page for page in story.ctx.ledger.pages(SERVICE) if page.key == "signal-slow")
    assert alone.revision == state.rollout


def look(project: str) -> None:
    """What the process does that is killed."""
    from lastgood import settings

    with projects.opened(settings.load(Path(project), environ={})) as ctx:
        judged(ctx, ctx.ledger.state(SERVICE))


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_decision_has_its_pages_or_has_not_happened(story: Story, point: str) -> None:
    """kill -9 anywhere around the commit; the next look leaves the change with each of its pages once."""
    project = story.ctx.settings.project
    code = f"from tests.release import test_pages; test_pages.look({str(project)!r})"
    env = {"LASTGOOD_FAILPOINTS": f"{point}=kill", "PATH": ""}
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    happened = story.state().candidate is None
    assert told(story.ctx) == (["rollout", "signal"] if happened else [])
    if not happened:
        judged(story.ctx, story.state())
    assert story.state().candidate is None
    assert told(story.ctx) == ["rollout", "signal"]
    (page,) = [page for page in story.ctx.ledger.pages(SERVICE) if page.key == "signal-slow"]
    assert [verdict["gate"] for verdict in page.body["verdicts"]] == ["slow"]
