"""An MLflow database of its own for each test, and bundles to show in it."""

import sqlite3

import pytest

from lastgood.bundle import manifest
from lastgood.layers import base, registry
from lastgood.service import schema
from lastgood.settings import Settings
from tests.mlflow_template import mlflow_db, mlflow_template

__all__ = ["mlflow_db", "mlflow_template"]

SERVICE = "demo"


def make_bundle(answer, **model_meta):
    """A bundle that differs from others by *answer*."""
    digest = manifest.sha256(str(answer).encode())
    return manifest.bundle_of(
        SERVICE,
        manifest.Part(
            name="model", digest=digest, size=8, media_type="application/json", uri=f"store:{digest}", meta={"answer": answer, **model_meta}
        ),
        manifest.Part(name="config", digest=manifest.sha256(b"config"), size=3, media_type="application/yaml", uri="store:x"),
    )


def make_desired(revision, *, stable=None, candidate=None, previous=None):
    """What a ledger would say."""
    named = [bundle for bundle in (stable, candidate, previous) if bundle is not None]
    configuration = {"schema": schema.SCHEMA, "service": SERVICE, "tier": "real-time-api", "owner": "nobody", "traffic": {"port": 18081}}
    return base.Desired(
        service=schema.Service.model_validate(configuration),
        revision=revision,
        stable=stable.id if stable else None,
        candidate=candidate.id if candidate else None,
        previous=previous.id if previous else None,
        weights={stable.id: 100.0} if stable else {},
        bundles={bundle.id: bundle for bundle in named},
    )


class World:
    """One home with one MLflow database, seen through MLflow's own client and through SQL."""

    def __init__(self, db):
        from mlflow import MlflowClient

        self.db = db
        self.settings = Settings(project=db.parent.parent, home=db.parent)
        self.client = MlflowClient(self.settings.tracking_uri, self.settings.tracking_uri)
        self.layer = self.make()

    def make(self, **kwargs):
        """A layer object of its own, as another process would have."""
        return registry.Registry(self.settings, SERVICE, **kwargs)

    def aliases(self):
        """Alias -> bundle tag of its version, read with SQL from the file itself."""
        with sqlite3.connect(self.db) as connection:
            found = connection.execute(
                "select a.alias, t.value from registered_model_aliases a left join model_version_tags t"
                " on t.name = a.name and t.version = a.version and t.key = 'lastgood.bundle' where a.name = ?",
                [SERVICE],
            ).fetchall()
        connection.close()
        return dict(found)

    def versions(self):
        """All versions of the service's model, oldest first."""
        return sorted(self.client.search_model_versions(f"name='{SERVICE}'"), key=lambda version: int(version.version))


@pytest.fixture
def world(mlflow_db):
    """A fresh world."""
    return World(mlflow_db)


A, B, C = (make_bundle(n) for n in (1, 2, 3))
