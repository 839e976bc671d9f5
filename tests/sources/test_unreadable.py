"""Logs from before the border was checked: a row that cannot be read is skipped, counted and told, and everything else is read."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import pyarrow as pa
import pydantic
import pytest

from lastgood.drift import verdict
from lastgood.drift import window as drift_window
from lastgood.service import gates
from lastgood.service.drift import Drift
from lastgood.serving import feedback, inference_log, segments
from lastgood.settings import Settings
from lastgood.sources import inference, log_losses
from tests.layers.traffic.world import A
from tests.sources.logs import BEGIN, SERVICE
from tests.sources.looking import Looker

GOOD = 20
FAR = 253_402_300_800_000_000
"""The first microsecond of the year 10000."""
OUTCOMES = ['{"clicks": 1' + "0" * 399 + "}", '{"clicks": 1' + "0" * 5000 + "}", '{"clicks": NaN}', '{"clicks": 1e999}', '{"clicks": 1e300}',
            "[]", "null", "7", "no json", "", "[" * 100_000, '{"clicks": 1', "\udc00".encode("utf-8", "replace").decode()]  # fmt: skip
LABELS = [math.nan, math.inf, -math.inf, 1e300, -1e200]
OUTPUTS = ["no json", "[]", "null", "", '{"figure": 1' + "0" * 399 + "}", '{"figure": Infinity}', "[" * 100_000]


class Row(pydantic.BaseModel):
    """A row with a time."""

    when: datetime.datetime | None = None
    list_: list[int] | None = None


def write(settings: Settings, log: str, table: pa.Table, number: int) -> None:
    """One segment of its own."""
    folder = settings.inference(SERVICE) / log / segments.day_name(BEGIN)
    segments.write_segment(table, folder, name=segments.segment_name("old", number, number))


def moments(count: int, start: float = 1.0) -> pa.Array:
    """So many moments, a thousandth of a second apart."""
    return pa.array([round((BEGIN + start) * 1e6) + 1000 * n for n in range(count)], pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def told(rows: list[tuple[str | None, float | None, str | None]]) -> pa.Table:
    """Feedback by id, label and outcome."""
    ids, labels, outcomes = zip(*rows, strict=True)
    return pa.table(
        {
            "at": moments(len(rows), 2.0),
            "request_id": pa.array(ids, pa.string()),
            "row": pa.array([0] * len(rows), pa.int32()),
            "label": pa.array(labels, pa.float64()),
            "outcome": pa.array(outcomes, pa.string()),
        }
    )


def answered(rows: list[tuple[str | None, float | None, str | None]]) -> pa.Table:
    """Answers of A by id, probability and output."""
    ids, probabilities, outputs = zip(*rows, strict=True)
    count = len(rows)
    return pa.table(
        {
            "at": moments(count),
            "request_id": pa.array(ids, pa.string()),
            "row": pa.array([0] * count, pa.int32()),
            "bundle": pa.array([A.id] * count, pa.string()),
            "arm": pa.array(["stable"] * count, pa.string()),
            "shadow": pa.array([False] * count, pa.bool_()),
            "probability": pa.array(probabilities, pa.float64()),
            "output": pa.array(outputs, pa.string()),
            "feature_when": pa.array([FAR if n % 3 else -FAR for n in range(count)], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "feature_list_": pa.array(["no json"] * count, pa.string()),
        }
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A service with good rows and bad ones, in one segment and in several."""
    made = Settings(project=tmp_path, home=tmp_path / "home")
    good = [(f"good-{n}", 0.25, json.dumps({"probability": 0.25, "figure": 3.0})) for n in range(GOOD)]
    bad = [(f"bad-{n}", None, text) for n, text in enumerate(OUTPUTS)]
    odd = [(f"odd-{n}", value, "{}") for n, value in enumerate([math.nan, math.inf, 1e300])]
    write(made, inference_log.PREDICTIONS, answered([*good[:10], *bad, *odd, (None, 0.5, "{}"), *good[10:]]), 1)
    right = [(f"good-{n}", 1.0, '{"clicks": 2}') for n in range(GOOD)]
    wrong = [("good-1", None, text) for text in OUTCOMES] + [("good-2", label, "{}") for label in LABELS]
    write(made, inference_log.FEEDBACK, told([*right[:10], *wrong, (None, 1.0, '{"clicks": 1}'), ("good-3", None, None), *right[10:]]), 1)
    return made


SCORES = ["brier", "squared_error", "absolute_error", "accuracy", "log_loss", "outcome.clicks", "output.figure"]


@pytest.mark.parametrize("score", SCORES)
def test_a_gate_reads_on_past_a_bad_row(score: str, settings: Settings) -> None:
    """It is not down, at no look and after a restart, and sees every good row; what it skipped is in the detail, in `status` and told."""
    better = {"better": "higher"} if "." in score else {}
    gate = gates.Score.model_validate({"metric": "score", "score": score, "margin": 0.1, "block_s": 10.0, **better})
    for _ in range(2):
        looker = Looker(inference.InferenceSource(settings, SERVICE), gate, A.id)
        assert looker.look(BEGIN) == []
        (seen,) = looker.look(BEGIN + 200)
        assert not seen.down
        assert seen.watched is not None
        assert seen.watched.n == GOOD
        assert math.isfinite(seen.watched.total)
        assert "could not be read and were skipped" in seen.detail
    (missing,) = [one for one in log_losses.missing(settings, SERVICE) if one.cause == "unreadable"]
    assert missing.rows >= 3
    assert "skipped" in missing.text()


def test_agreement_reads_on_too(settings: Settings) -> None:
    """Answers that are no JSON cannot be compared; the others are."""
    gate = gates.Agreement.model_validate({"metric": "agreement", "min": 0.5})
    looker = Looker(inference.InferenceSource(settings, SERVICE), gate, A.id, A.id)
    looker.look(BEGIN)
    assert not [one for one in looker.look(BEGIN + 200) if one.down]


def test_a_window_and_its_rows_are_read_with_bad_ones_in_it(settings: Settings) -> None:
    """A time in the year 10000, text that is no JSON, labels without end: the window is whole, and a row that cannot be read is None."""
    columns = ["when", "list_", "probability", "label"]
    window = drift_window.read(settings.inference(SERVICE), bundle=A.id, since=BEGIN, until=BEGIN + 100, columns=columns)
    assert window.table is not None
    assert (window.trouble, window.table.num_rows) == ((), GOOD + len(OUTPUTS) + 4)
    verdict.of_window(window.sample, window.sample, None, Drift.model_validate({}))
    assert inference_log.requests(window.table, Row) == [None] * window.table.num_rows
    by_time = drift_window.read(settings.inference(SERVICE), bundle=A.id, since=BEGIN, until=BEGIN + 100, columns=columns, time="when")
    assert by_time.rows == window.rows


def test_everything_joins_and_is_scored(settings: Settings) -> None:
    """What the demonstrations and people ask."""
    joined = inference_log.labelled(settings.inference(SERVICE), since=BEGIN, until=BEGIN + 100)
    assert joined is not None
    assert joined.num_rows >= GOOD - 1
    inference_log.quality(joined)


def test_nothing_that_is_accepted_now_is_like_that() -> None:
    """The largest figures that are taken can be scored, and their squares added up."""
    most = feedback.MAX_FIGURE
    assert feedback.check_label(most) == most
    for score in inference.SCORES.values():
        assert math.isfinite(math.fsum([score(0.5, most) ** 2] * 200_000))
    for label in (10**400, math.nan, math.inf, 1e51, "x", []):
        with pytest.raises(ValueError, match="the label must"):
            feedback.check_label(label)
    assert [feedback.check_label(label) for label in (None, True, 3)] == [None, 1.0, 3.0]
