"""An inference log written by hand: who answered what, when, and what really happened."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydantic

from lastgood.serving import feedback, inference_log, segments
from lastgood.settings import Settings

SERVICE = "echo"
BEGIN = 1_700_000_000.0


class Request(pydantic.BaseModel):
    """A row without fields."""


@dataclasses.dataclass
class Logs:
    """The two logs of a service; what is said is on disk at once."""

    folder: Path

    def __post_init__(self) -> None:
        self.settings = Settings(project=self.folder, home=self.folder / "home")
        home = self.settings.inference(SERVICE)
        limits: dict[str, Any] = {"flush_s": 1.0, "segment_rows": 1000, "keep_days": 30.0, "clock": lambda: BEGIN}
        self.predictions = segments.SegmentLog(
            home / inference_log.PREDICTIONS, name="a", to_table=inference_log.table_maker(Request), **limits
        )
        self.feedback = segments.SegmentLog(home / inference_log.FEEDBACK, name="a", to_table=feedback.to_table, **limits)

    def answered(
        self,
        request_id: str,
        bundle: str,
        at: float,
        *outputs: dict[str, Any] | float,
        shadow: bool = False,
        arm: str | None = None,
        caller_id: str | None = None,
        flush: bool = True,
    ) -> None:
        """*bundle* answered a request of as many rows as there are *outputs*; a number is a probability. *at* counts from BEGIN."""
        said = [{"probability": output} if isinstance(output, float) else output for output in outputs]
        one = inference_log.Answered(
            request_id=request_id, caller_id=caller_id, at=BEGIN + at, bundle=bundle, arm=arm, shadow=shadow, latency_us=1, rows=[Request()] * len(said), outputs=said
        )  # fmt: skip
        self.predictions.append(one.as_rows())
        if flush:
            self.predictions.flush()

    def happened(self, request_id: str, at: float, label: float | None, *, row: int = 0, flush: bool = True, **outcome: Any) -> None:
        """Feedback on a row; *at* counts from BEGIN."""
        one = feedback.Feedback.model_validate({"request_id": request_id, "row": row, **(outcome or {"label": label})})
        self.feedback.append([one.as_row(at=BEGIN + at, label=label)])
        if flush:
            self.feedback.flush()

    def flush(self) -> None:
        """Write what waits."""
        self.predictions.flush()
        self.feedback.flush()

    def merge(self) -> None:
        """Merge all small segments."""
        for log in (self.predictions, self.feedback):
            log._merge()
            log._remove_left_over()
