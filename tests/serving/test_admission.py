"""One caller never takes the capacity of all, and one that is alone has all of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from lastgood.serving import admission
from tests.serving.conftest import Home, wait_ready
from tests.serving.test_app import Odd, odd


class Line:
    """Turns that are asked for and given back one by one; `served` says who had one."""

    def __init__(self, slots: int = 1, **more: Any) -> None:
        self.turns = admission.Turns(slots, **more)
        self.served: list[tuple[str, str | None]] = []
        self.most = 0
        self._inside = 0
        self.go = asyncio.Semaphore(0)

    async def ask(self, peer: str, user: str | None = None) -> None:
        """Have a turn, and keep it until the test lets go of one."""
        async with self.turns.turn(peer, user):
            self.served.append((peer, user))
            self._inside += 1
            self.most = max(self.most, self._inside)
            try:
                await self.go.acquire()
            finally:
                self._inside -= 1

    async def settled(self) -> None:
        """Let everything happen that can."""
        for _ in range(20):
            await asyncio.sleep(0)


def test_a_peer_that_is_alone_is_never_held_back() -> None:
    """All slots are its own, in the order of its requests."""

    async def run() -> None:
        line = Line(2)
        asked = [asyncio.create_task(line.ask("a", str(number))) for number in range(6)]
        for _ in asked:
            line.go.release()
            await line.settled()
        await asyncio.gather(*asked)
        assert [user for _, user in line.served] == ["0", "1", "2", "3", "4", "5"]
        assert line.most == 2

    asyncio.run(run())


def test_one_that_comes_late_is_next() -> None:
    """A hundred requests of one peer wait; another peer's only one is served after the one that runs, and so is another user's."""

    async def run() -> None:
        line = Line()
        asked = [asyncio.create_task(line.ask("flood", "x")) for _ in range(100)]
        await line.settled()
        asked += [asyncio.create_task(line.ask("late")), asyncio.create_task(line.ask("flood", "y"))]
        await line.settled()
        for _ in range(4):
            line.go.release()
            await line.settled()
        assert line.served[:5] == [("flood", "x"), ("flood", "x"), ("late", None), ("flood", "y"), ("flood", "x")]
        for _ in asked:
            line.go.release()
        await asyncio.gather(*asked)

    asyncio.run(run())


def test_past_its_limit_the_longest_line_is_refused_and_nobody_else() -> None:
    """Who has the most waiting is told to come again; a newcomer still gets in line."""

    async def run() -> None:
        line = Line(waiting=10)
        asked = [asyncio.create_task(line.ask("flood")) for _ in range(11)]
        await line.settled()
        with pytest.raises(admission.TooMany, match="send fewer at a time"):
            await line.ask("flood")
        asked.append(asyncio.create_task(line.ask("other")))
        await line.settled()
        for _ in asked:
            line.go.release()
            await line.settled()
        await asyncio.gather(*asked)
        assert line.served.count(("other", None)) == 1

    asyncio.run(run())


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["u", "v", None]), st.booleans()), max_size=40), st.integers(1, 4)
)
def test_every_slot_comes_back(plan: list[tuple[str, str | None, bool]], slots: int) -> None:
    """Whoever leaves while waiting, or is cancelled inside, leaves the line as it was: never more inside than slots, nobody forgotten."""

    async def run() -> None:
        line = Line(slots)
        asked = [(asyncio.create_task(line.ask(peer, user)), leaves) for peer, user, leaves in plan]
        await line.settled()
        for task, leaves in asked:
            if leaves:
                task.cancel()
        await line.settled()
        for _ in asked:
            line.go.release()
            await line.settled()
        done = await asyncio.gather(*(task for task, _ in asked), return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [leaves for _, leaves in asked]
        assert line.most <= slots
        for _ in range(slots):  # and all of them are free again
            line.go.release()
        await asyncio.gather(*(line.ask("z") for _ in range(slots)))

    asyncio.run(run())


def test_a_user_has_so_many_under_way_and_no_more() -> None:
    """The bound is each user's own, ends with the request, and does not hold for requests that name nobody."""
    bounds = admission.UserBounds(requests=2, feedback=10, clock=lambda: 0.0)
    with bounds.request("a"), bounds.request("a"):
        with pytest.raises(admission.TooMany, match="user_requests"), bounds.request("a"):
            pass
        with bounds.request("b"), bounds.request(None), bounds.request(None), bounds.request(None):
            pass
    with bounds.request("a"):
        pass
    assert bounds._under_way == {}


def test_feedback_of_a_user_is_bounded_by_the_minute() -> None:
    """A minute's worth at once, then as time goes on; a refused batch takes nothing; a clock that jumps back gives nothing away."""
    now = [0.0]
    bounds = admission.UserBounds(requests=1, feedback=60, clock=lambda: now[0])
    bounds.feedback("a", 60)
    with pytest.raises(admission.TooMany) as refused:
        bounds.feedback("a", 5)
    assert refused.value.retry_after_s == 5
    bounds.feedback("b", 60)
    bounds.feedback(None, 10_000)
    now[0] = 5.0
    bounds.feedback("a", 5)
    now[0] = -100.0
    with pytest.raises(admission.TooMany):
        bounds.feedback("a", 1)
    now[0] = 1000.0
    bounds.feedback("a", 60)


class Held(Odd):
    """A runtime that waits until the test lets it go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.order: list[str] = []

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Says who came, and waits."""
        self.order.append(rows[0].do)
        if rows[0].do == "wait":
            self.entered.release()
            assert self.gate.wait(30)
        return [{"probability": 0.5} for _ in rows]


def test_a_user_beyond_its_bound_is_refused_and_others_are_answered(home: Home) -> None:
    """429 with when to come again and which setting it is, counted; others come in meanwhile, and so does that user afterwards."""
    held = Held()
    with TestClient(odd(home, held, serving={"user_requests": 1}), base_url="http://127.0.0.1") as client:
        wait_ready(client)
        answers: list[int] = []

        def ask(**headers: str) -> int:
            return client.post("/predict", json={"do": "wait"}, headers=headers).status_code

        greedy = {"x-user-id": "greedy"}
        threads = [
            threading.Thread(target=lambda who: answers.append(ask(**who)), args=(who,)) for who in (greedy, {"cookie": "session=b"})
        ]
        threads[0].start()
        assert held.entered.acquire(timeout=30)
        threads[1].start()
        refused = client.post("/predict", json={"do": "more"}, headers=greedy)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "serving.user_requests" in refused.json()["error"]
        held.gate.set()
        for thread in threads:
            thread.join()
        assert answers == [200, 200]
        assert client.post("/predict", json={"do": "again"}, headers=greedy).status_code == 200
        text = client.get("/metrics").text
        assert 'lastgood_too_many_total{route="/predict"} 1.0' in text
        assert 'lastgood_requests_total{code="429",route="/predict"} 1.0' in text
        assert "more" not in held.order


def test_feedback_beyond_a_users_bound_is_refused_whole(home: Home) -> None:
    """A batch that is too much is refused as one, another user's is taken."""
    with TestClient(odd(home, Odd(), serving={"user_feedback_per_min": 5, "max_batch": 5}), base_url="http://127.0.0.1") as client:
        wait_ready(client)

        def send(rows: int, user: str) -> int:
            body = {"rows": [{"request_id": f"r{number}", "label": 1} for number in range(rows)]}
            return client.post("/feedback", json=body, headers={"x-user-id": user}).status_code

        assert [send(4, "a"), send(4, "a"), send(5, "b")] == [202, 429, 202]
