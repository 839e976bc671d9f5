"""Bundles whose hosted model ends: written down, shown, paged once, and never gone back to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.llm import base
from lastgood.model_retirement import check as liveness
from lastgood.model_retirement import records
from lastgood.testing import projects

OLD = {"provider": "openai", "model": "old-2024-01-01"}
NEW = {"provider": "openai", "model": "new-2025-01-01"}
DAY_S = records.DAY_S


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[release.Context]:
    """A project without layers."""
    with projects.opened(projects.project(tmp_path)) as ctx:
        yield ctx


class Provider:
    """Knows both models; each test says what becomes of them."""

    def __init__(self) -> None:
        self.says: dict[str, Mapping[str, Any] | None] = {OLD["model"]: {}, NEW["model"]: {}}
        self.away = False

    def __call__(self, pin: base.Pin) -> Mapping[str, Any] | None:
        if self.away:
            raise errors.Unavailable("no connection; try it again")
        return self.says[pin.model]


@pytest.fixture
def provider() -> Provider:
    """One that has both models and announces nothing."""
    return Provider()


def check(ctx: release.Context, provider: Provider | None, *, now: float | None = None) -> liveness.Report:
    """One look, now or at Unix time *now*."""
    return liveness.check(ctx, "toy", ask=provider, now=now or time.time(), actor="test")


def statuses(report: liveness.Report) -> dict[str, str]:
    """What was found out, by the short id of the bundle."""
    return {short(one.bundle): one.lifetime.status for one in report.checked}


def told(ctx: release.Context) -> list[str]:
    """The pages about liveness, newest first."""
    return [page.summary for page in ctx.ledger.pages("toy") if page.key.startswith("liveness")]


def test_what_lives_is_written_down_and_pages_nobody(ctx: release.Context, provider: Provider) -> None:
    """Stable first, then what may be gone back to, each with the models that it asks."""
    a, b = projects.released(ctx, 1, 2, llms={1: [OLD], 2: [NEW]})
    report = check(ctx, provider)
    assert report.ok
    assert [(one.bundle, one.role, one.models) for one in report.checked] == [
        (b, "stable", ("openai/new-2025-01-01",)),
        (a, "way back", ("openai/old-2024-01-01",)),
    ]
    assert statuses(report) == {short(a): "alive", short(b): "alive"}
    assert told(ctx) == []
    known = records.newest(ctx.ledger, b, now=time.time())
    assert known is not None
    assert known.status == "alive"


def test_a_bundle_that_asks_nobody_is_not_asked_about(ctx: release.Context, provider: Provider) -> None:
    """Nothing is written down for it either."""
    (a,) = projects.released(ctx, 1)
    assert check(ctx, provider) == liveness.Report(checked=(), risk=None)
    assert ctx.ledger.evaluations(a) == []


def test_the_same_answer_is_written_down_once_a_week(ctx: release.Context, provider: Provider) -> None:
    """Often enough to see that somebody asks, and the ledger does not fill up."""
    (a,) = projects.released(ctx, 1, llms={1: [OLD]})
    now = time.time()
    for days in (0, 0.25, 6.9):
        check(ctx, provider, now=now + days * DAY_S)
        assert len(ctx.ledger.evaluations(a)) == 1
    check(ctx, provider, now=now + 7.1 * DAY_S)
    assert len(ctx.ledger.evaluations(a)) == 2


def test_a_gone_model_is_no_way_back(ctx: release.Context, provider: Provider) -> None:
    """The rollback passes over it, to the bundle before; named, it is refused with the way out; and so is releasing it."""
    a, b, c = projects.released(ctx, 1, 2, 3, llms={1: [NEW], 2: [OLD], 3: [NEW]})
    provider.says[OLD["model"]] = None
    report = check(ctx, provider)
    assert report.ok, "something safe is left"
    assert statuses(report) == {short(c): "alive", short(b): "gone", short(a): "alive"}
    with pytest.raises(errors.NotAllowed, match=r"cannot answer any more, openai/old-2024-01-01: .*'lastgood liveness toy'"):
        release.roll_back(ctx, "toy", release.Request(actor="t", reason="x"), to=b)
    with pytest.raises(errors.NotAllowed, match="cannot answer any more"):
        release.propose(ctx, "toy", b, release.Request(actor="t", reason="x"))
    assert release.roll_back(ctx, "toy", release.Request(actor="t", reason="x")).revision.state.stable == a


def test_a_model_that_came_back_is_a_way_back_again(ctx: release.Context, provider: Provider) -> None:
    """What was found out last counts: no mark has to be lifted."""
    a, _ = projects.released(ctx, 1, 2, llms={1: [OLD], 2: [NEW]})
    provider.says[OLD["model"]] = None
    check(ctx, provider)
    provider.says[OLD["model"]] = {}
    check(ctx, provider)
    assert release.roll_back(ctx, "toy", release.Request(actor="t", reason="x")).revision.state.stable == a


def test_a_date_that_has_passed_counts_without_asking_again(ctx: release.Context, provider: Provider) -> None:
    """Nobody has to ask on the very day: the date stands in the ledger."""
    a, b = projects.released(ctx, 1, 2, llms={1: [OLD], 2: [NEW]})
    ends = time.time() - 60
    provider.says[OLD["model"]] = {"shutdown_at": ends}
    assert statuses(check(ctx, provider, now=ends - 3 * DAY_S)) == {short(b): "alive", short(a): "dying"}
    why = records.gone(ctx.ledger, a, now=time.time())
    assert why is not None
    assert why.startswith("openai/old-2024-01-01: it was to be shut down on 20")
    assert records.gone(ctx.ledger, a, now=ends - 1) is None
    with pytest.raises(errors.NotAllowed, match="no other bundle that was stable"):
        release.roll_back(ctx, "toy", release.Request(actor="t", reason="x"))


def test_what_serves_and_dies_is_paged_once(ctx: release.Context, provider: Provider) -> None:
    """Once when it begins to die, and once when it is gone, however often it is looked at."""
    (a,) = projects.released(ctx, 1, llms={1: [OLD]})
    now = time.time()
    provider.says[OLD["model"]] = {"shutdown_at": now + 10 * DAY_S}
    assert not check(ctx, provider, now=now).ok
    assert not check(ctx, provider, now=now + DAY_S).ok
    assert told(ctx) == [
        f"toy: stable {short(a)} uses a model that is dying: openai/old-2024-01-01: {_ends(now + 10 * DAY_S, 10)}; release a bundle that uses another model"
    ]
    check(ctx, provider, now=now + 11 * DAY_S)
    assert len(told(ctx)) == 2
    assert {page.severity for page in ctx.ledger.pages("toy") if page.key.startswith("liveness")} == {"warning", "critical"}


def _ends(at: float, days: int) -> str:
    return f"it will be shut down on {time.strftime('%Y-%m-%d', time.gmtime(at))}, in {days} days"


def test_nothing_safe_behind_is_paged_once(ctx: release.Context, provider: Provider) -> None:
    """Two ways back, one gone and one dying: a person is told that there is nothing safe, and which they were."""
    a, b, _ = projects.released(ctx, 1, 2, 3, llms={1: [OLD], 2: [OLD, NEW], 3: []})
    provider.says[OLD["model"]] = {"shutdown_at": time.time() + 5 * DAY_S}
    report = check(ctx, provider)
    assert not report.ok
    assert report.risk is not None
    assert short(a) in report.risk
    assert short(b) in report.risk
    check(ctx, provider)
    (page,) = told(ctx)
    assert page.startswith("toy: no safe rollback target is left; release a bundle whose model is still offered: ")


def test_one_way_back_that_asks_nobody_is_safe(ctx: release.Context, provider: Provider) -> None:
    """The newest one's model is gone, but there is another."""
    projects.released(ctx, 1, 2, 3, llms={2: [OLD]})
    provider.says[OLD["model"]] = None
    assert check(ctx, provider).risk is None


def test_a_provider_that_is_away_says_nothing(ctx: release.Context, provider: Provider) -> None:
    """It is unknown then, and unknown is no reason to refuse a way back."""
    a, _ = projects.released(ctx, 1, 2, llms={1: [OLD], 2: [NEW]})
    provider.away = True
    report = check(ctx, provider)
    assert report.ok
    assert set(statuses(report).values()) == {"unknown"}
    assert "no connection" in report.checked[0].lifetime.why
    assert release.roll_back(ctx, "toy", release.Request(actor="t", reason="x")).revision.state.stable == a


def test_a_pin_that_nobody_understands_is_unknown(ctx: release.Context, provider: Provider) -> None:
    """Services of other people write their own pins; the others are asked all the same."""
    a, b = projects.released(ctx, 1, 2, llms={1: [{"provider": "own", "model": "x"}], 2: [NEW]})
    found = statuses(check(ctx, provider))
    assert found == {short(b): "alive", short(a): "unknown"}


def test_the_worst_of_several_models_counts(ctx: release.Context, provider: Provider) -> None:
    """A bundle that asks two models needs both."""
    (a,) = projects.released(ctx, 1, llms={1: [NEW, OLD]})
    provider.says[OLD["model"]] = None
    (found,) = check(ctx, provider).checked
    assert (found.bundle, found.lifetime.status) == (a, "gone")
    assert found.lifetime.why.startswith("openai/old-2024-01-01")
