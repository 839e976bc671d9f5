"""What the pictures of a rollout show."""

from __future__ import annotations

from pathlib import Path

from lastgood.reports import plots, record
from tests.reports import story as stories
from tests.reports.story import SERVICE


def test_the_threshold_ends_where_the_rollback_is_verified(tmp_path: Path) -> None:
    """It was for the candidate, beside stable; what serves since then is held against another one."""
    with stories.begun(tmp_path) as story:
        stories.taken_out(story)
        told = record.collect(story.ctx, SERVICE, clock=story.clock)
    judged = [one for one in told.analyses if "errors" in one.trails and one.kind != "verify"]
    assert any(one.kind == "verify" for one in told.analyses)
    figure = plots.arms(told, "errors")
    assert figure is not None
    (line,) = [line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith("threshold")]
    start, end = line.get_xdata()
    assert (start, end) == (judged[0].began - told.began, judged[-1].ended - told.began)
    assert end < told.ended - told.began
