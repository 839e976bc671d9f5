"""Hooks for steps that succeeded or failed."""

from typing import TypeVar

import dagster as dg

Asset = TypeVar("Asset")


@dg.success_hook(name="finish_mlflow_run", required_resource_keys={"mlflow"})
def finish_mlflow_run(context: dg.HookContext) -> None:
    """End the MLflow run of a training step that succeeded."""
    context.resources.mlflow.finish("FINISHED")


@dg.failure_hook(name="fail_mlflow_run", required_resource_keys={"mlflow"})
def fail_mlflow_run(context: dg.HookContext) -> None:
    """Mark the MLflow run of a failed training step as failed."""
    context.resources.mlflow.finish("FAILED")


def closing_mlflow_run(asset: Asset) -> Asset | dg.AssetsDefinition:
    """*asset*, extended to end its MLflow run if it requires the resource `mlflow`.

    The hook of dagster-mlflow ends the run only with the last step of the Dagster run. Training is not the
    last step here: bundling and its checks follow, and they are not part of the training run.
    """
    if isinstance(asset, dg.AssetsDefinition) and "mlflow" in asset.required_resource_keys:
        return asset.with_hooks({finish_mlflow_run, fail_mlflow_run})
    return asset
