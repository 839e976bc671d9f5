"""Where Evidently's reports are kept, and for how long."""

from __future__ import annotations

import os
from pathlib import Path

from lastgood.drift import evidently_report as drift_report
from lastgood.drift import watch as drift_watch
from lastgood.service.drift import Drift
from lastgood.settings import Settings


class Snapshot:
    """What Evidently gives, as far as it is saved."""

    def dict(self) -> dict[str, int]:
        return {"metrics": 0}

    def save_html(self, file: str) -> None:
        Path(file).write_text("<html>")


def test_the_newest_reports_of_each_service_stay(tmp_path: Path) -> None:
    """With their JSON; a service whose name begins with another's is not touched."""
    settings = Settings(project=tmp_path, home=tmp_path)

    def kept(service: str, number: int) -> Path:
        what = drift_watch.DriftWatch(service=service, bundle="sha256:0", since=0.0, revision=1, rules=Drift())
        html, told = drift_report.archive(settings, what, Snapshot(), since=number, until=number + 1)
        for file in (html, told):
            os.utime(file, (number, number))
        return html

    other = kept("toy-2", 1)
    first, *_, last = [kept("toy", number) for number in range(drift_report.KEPT + 1)]
    kept("toy", drift_report.KEPT + 1)
    assert not first.exists()
    assert not first.with_suffix(".json").exists()
    assert last.exists()
    assert other.exists()
    assert len(list(last.parent.iterdir())) == 2 * drift_report.KEPT
