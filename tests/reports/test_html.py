"""The page about a rollout: whole, readable by itself, and safe whatever people wrote."""

from __future__ import annotations

import dataclasses
import html.parser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.reports import html as html_report
from lastgood.reports import plots, record
from tests.reports import story as stories
from tests.reports.story import SERVICE, Story

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)> \"'& $x_1$ \\frac{ \u202e {{ 7*7 }}"


class Page(html.parser.HTMLParser):
    """What is on a page: its elements, their attributes, its text, its ids, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.events: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [value or ""] if name in ("href", "src", "action", "xlink:href") else []
            self.events += [name] if name.startswith("on") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f" {data}"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> record.RolloutRecord:
    """A candidate that a gate took out, with hostile words wherever people may write."""
    gates = stories.GATES.replace("  errors:", '  "errors & <b>$x$</b>":')
    with stories.begun(tmp_path_factory.mktemp("report"), gates=gates) as story:
        good = story.first()
        bad = story.propose(2.0, reason=HOSTILE, actor="<i>eve</i>")
        story.traffic.bad = {good: 0.005, bad: 0.005}
        while story.state().weight_pct == 0:
            story.look()
        story.traffic.bad[bad] = 0.4
        story.go_on(until="rollback")
        story.go_on(until="verified")
        found = record.collect(story.ctx, SERVICE, clock=story.clock)
    layer = record.Followed(layer="traffic", status="converged", desired=7, observed=7, ms=11.0, detail="<u>detail</u>")
    return dataclasses.replace(found, followed=(layer, dataclasses.replace(layer, layer="registry", ms=900.0, at_most=True)))


@pytest.fixture(scope="module")
def text(told: record.RolloutRecord) -> str:
    """Its page."""
    return html_report.html(told)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A project with one service and steady traffic."""
    with stories.begun(tmp_path) as begun:
        yield begun


def test_the_page_tells_everything_that_is_known(told: record.RolloutRecord, text: str) -> None:
    """Headline, revisions with who and why, gates with figures, pages, layers, what is not undone, and the exact commands."""
    page = Page(text)
    words = re.sub(r"\s+", " ", page.text)
    assert "taken out automatically before its cut-over" in words
    assert "Afterwards: recovered" in words
    for revision in told.revisions:
        assert re.sub(r"\s+", " ", revision.reason).strip() in words
        assert revision.actor in words
    for analysis in told.analyses:
        for trail in analysis.trails.values():
            assert trail.verdict.why in words
    for part in ("answer: 1 \u2192 2", "at most 900 ms", "11 ms", "did not undo", "rollout-4", "quarantined", "<u>detail</u>"):
        assert part in words, part
    assert f"lastgood report {SERVICE} --rollout {told.rollout} --json" in words
    assert f"lastgood diff {SERVICE} {told.stable[7:19]} {told.candidate[7:19]}" in words  # type: ignore[index]
    headings = [heading.strip() for heading in re.findall(r"<h2>(.*?)</h2>", text)]
    assert len(headings) == len(set(headings))


def test_nothing_that_people_wrote_becomes_markup(text: str) -> None:
    """No script, no handler, no picture from elsewhere; the words are there as words."""
    page = Page(text)
    assert {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags) == set()
    assert page.events == []
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "49" not in re.sub(r"\d*\.\d+|\d{3,}", "", "".join(re.findall(r"alert\(2\)&gt;[^<]*", text)))
    assert "<i>eve</i>" in page.text
    assert "errors & <b>$x$</b>" in page.text


def test_the_page_needs_nothing_else(text: str) -> None:
    """It names no address, each reference points into the page, ids are unique, and it is small."""
    page = Page(text)
    assert re.search(r"https?:|//[a-z]|@import|url\((?!#)", text.replace("a//b", "")) is None
    assert all(link.startswith("#") for link in page.links)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert len(text.encode()) < 400_000


def test_there_is_a_picture_of_everything_that_was_measured(told: record.RolloutRecord, text: str) -> None:
    """Traffic, the gate that fired, the evidence, the times and the layers, each with a title that says what it shows."""
    page = Page(text)
    assert page.tags.count("svg") == 6
    titles = re.findall(r'<svg role="img" aria-label="([^"]*)"', text)
    assert "The candidate had at most 5 % of the traffic before it was taken out" in titles
    assert any(title.startswith("40 % of") or "requests failed" in title for title in titles)
    figures = plots.every(told)
    assert list(figures) == ["traffic", "arms-errors", "arms-errors & <b>$x$</b>", "evidence", "latency", "layers"]
    assert figures["evidence"].axes[0].get_ylabel() == "evidence"
    assert told.last_analysis is not None
    tested = [name for name, trail in told.last_analysis.trails.items() if trail.verdict.evidence is not None]
    assert len(figures["evidence"].axes) == len(tested) == 4
    for name in ("traffic", "latency", "layers"):
        assert "(" in figures[name].axes[0].get_xlabel(), "a unit is missing"


def test_the_curves_hold_what_was_measured(told: record.RolloutRecord) -> None:
    """The drawn evidence ends above the drawn boundary; the shares add up to 100 at each moment."""
    evidence = plots.evidence(told)
    assert evidence is not None
    path, end, boundary = evidence.axes[0].get_lines()[:3]
    assert path.get_ydata()[-1] == end.get_ydata()[0] == told.fired.evidence  # type: ignore[union-attr]
    assert boundary.get_ydata()[0] == told.fired.boundary  # type: ignore[union-attr]
    assert end.get_ydata()[0] >= boundary.get_ydata()[0]
    stacks = [one.get_paths()[0].vertices for one in plots.traffic(told).axes[0].collections[:2]]
    assert stacks[1][:, 1].max() == 100


def test_pictures_for_elsewhere_are_png_and_keep_to_a_size(told: record.RolloutRecord) -> None:
    """The first ones that fit."""
    made = plots.pictures(told)
    assert next(iter(made)) == "traffic"
    assert all(data.startswith(b"\x89PNG") for data in made.values())
    assert sum(map(len, made.values())) < 300_000
    one = len(made["traffic"])
    assert list(plots.pictures(told, max_bytes=one)) == ["traffic"]


def test_a_page_is_the_same_for_the_same_chronicle(told: record.RolloutRecord, text: str) -> None:
    """Nothing in it depends on when or where it was drawn."""
    assert html_report.html(told) == text


def test_a_running_release_without_measurements_has_a_page(story: Story, tmp_path: Path) -> None:
    """What is not known is said; the commands are those for a release that is under way."""
    story.first()
    story.propose(2.0)
    found = record.collect(story.ctx, SERVICE, clock=story.clock)
    out = html_report.write(found, tmp_path / "new" / "page.html")
    page = Page(out.read_text("utf-8"))
    assert "has been in progress for" in page.text
    assert "No measurements of this rollout are kept" in page.text
    assert f"lastgood rollback {SERVICE} stable" in page.text
    assert "did not undo" not in page.text
    assert page.tags.count("svg") == 1


def test_a_first_release_has_a_page(story: Story) -> None:
    """Nothing beside it, nothing before it."""
    story.first()
    page = Page(html_report.html(record.collect(story.ctx, SERVICE, clock=story.clock)))
    assert "was released after 10 s" in page.text


def test_without_its_extra_the_remedy_is_said(told: record.RolloutRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pictures nor pages are part of the base installation."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(errors.UsageError, match=r"lastgood\[report\]"):
        html_report.html(told)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.UsageError, match=r"lastgood\[report\]"):
        plots.traffic(told)


def test_a_file_that_cannot_be_written_is_said(told: record.RolloutRecord, tmp_path: Path) -> None:
    """With the remedy, and without half a page."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.Unavailable, match="--out"):
        html_report.write(told, tmp_path / "file" / "page.html")


def test_the_times_of_a_control_arm_are_called_so(told: record.RolloutRecord) -> None:
    """They are not those of all of stable's answers."""

    def legend(one: record.RolloutRecord) -> list[str]:
        figure = plots.latency(one)
        assert figure is not None
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

    assert not any("control arm" in text for text in legend(told))
    states = [dataclasses.replace(one, state=dataclasses.replace(one.state, control=True)) for one in told.revisions]
    named = [text for text in legend(dataclasses.replace(told, revisions=tuple(states))) if "control arm" in text]
    assert len(named) == 1
    assert named[0].startswith("stable ")
