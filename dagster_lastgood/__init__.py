"""Release and roll back whole AI systems from Dagster.

`build_definitions` gives a code location everything for the named services: parts, bundle, release and drift as assets, gates
and expectations as checks, sensors that mirror the ledger, and the jobs `promote`, `approve`, `rollback`, `retrain`,
`evaluate_rollback` and `drift_report`. `ServiceComponent` does the same from a YAML block.

Importing this package loads Dagster and nothing heavier: a `dagster job launch` imports it before the first line of a rollback.
"""

from dagster_lastgood.component import ServiceComponent
from dagster_lastgood.definitions import build_definitions
from dagster_lastgood.mlflow_runs import Training
from dagster_lastgood.service import Service
from dagster_lastgood.written_parts import Part, Written

__all__ = ["Part", "Service", "ServiceComponent", "Training", "Written", "build_definitions"]
