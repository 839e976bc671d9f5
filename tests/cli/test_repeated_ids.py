"""`status` says that callers give several requests one id, for then nobody can tell their labels apart."""

from __future__ import annotations

import pytest

from lastgood.settings import Settings
from lastgood.testing import projects
from tests import memory
from tests.cli.conftest import Run


@pytest.mark.parametrize("unclear", [0, 2])
def test_status_tells_repeated_ids_with_the_remedy(run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch, unclear: int) -> None:
    """Of all workers of this host together; not while there are none, nor of workers that do not say."""
    (settings.project / "lastgood.toml").write_text(memory.ADAPTERS)
    layer = memory.world(settings, "toy").infrastructure
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)

    def told(*workers: object) -> str:
        monkeypatch.setattr(layer, "_facts", lambda: {"workers": dict(zip((a, b), workers, strict=True))})
        return "".join(line for line in run("status", "toy").out.splitlines() if "x-request-id" in line)

    nothing = {"repeated_ids": None, "unclear_labels": None}
    assert told(True, True) == told(nothing, {"repeated_ids": 0, "unclear_labels": 0}) == ""
    said = told({"repeated_ids": 1200, "unclear_labels": unclear}, {"repeated_ids": 34, "unclear_labels": 0})
    assert "1,234 requests reused the x-request-id of an earlier request" in said
    assert "send the answer's request_id" in said
    assert ("2 labels were refused" in said) == (unclear > 0)
