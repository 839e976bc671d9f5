"""The verbs on a ledger in Postgres: one URL switches it, nothing else changes."""

from __future__ import annotations

from pathlib import Path

from lastgood import release
from lastgood import settings as settings_
from lastgood.ledger import audit
from lastgood.testing import projects
from tests import postgres


def test_release_and_roll_back_on_postgres(tmp_path: Path) -> None:
    """Two releases and a rollback through the same verbs, and a trail that verifies."""
    made = projects.project(tmp_path)
    with postgres.serving() as server:
        environ = {"LASTGOOD_LEDGER_URL": server.create_database()}
        settings = settings_.load(made.project, environ=environ)
        with projects.opened(settings) as ctx:
            a, b = projects.released(ctx, 1, 2)
            done = release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
            assert (done.revision.state.stable, done.revision.state.marks[b].kind) == (a, "quarantined")
            audit.checkpoint(ctx.ledger, "toy", settings.keys)
            assert audit.verify(ctx.ledger, "toy", settings.keys).problems == ()
    assert not (made.home / "ledger.db").exists()
