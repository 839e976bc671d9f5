"""Great Expectations results on a table, as rows that a check can show. The expectations themselves are declared by each service."""

from collections.abc import Sequence
from typing import Any


def table(frame: Any, expectations: Sequence[Any]) -> list[dict[str, Any]]:
    """One row per expectation on *frame* (a pandas DataFrame): {"check", "expectation", "column", "passed", "found"}.

    Each expectation names its check in `meta`. An expectation that raised has not passed, and its row shows the error.
    """
    import os

    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    suite = context.suites.add_or_update(gx.ExpectationSuite(name="table", expectations=list(expectations)))
    batch = context.data_sources.add_pandas("frames").add_dataframe_asset("table").add_batch_definition_whole_dataframe("whole")
    validated = batch.get_batch(batch_parameters={"dataframe": frame}).validate(suite, result_format="SUMMARY")
    return [_row(result) for result in validated.results]


def _row(result: Any) -> dict[str, Any]:
    config = result.expectation_config
    raised = {str(info.get("exception_message")) for info in (result.exception_info or {}).values() if isinstance(info, dict)}
    seen = {key: result.result[key] for key in ("observed_value", "unexpected_percent", "partial_unexpected_list") if key in result.result}
    return {
        "check": config.meta["check"],
        "expectation": config.type,
        "column": str(config.kwargs.get("column", "")),
        "passed": bool(result.success),
        "found": "; ".join(sorted(raised)) if raised else str(seen)[:300],
    }
