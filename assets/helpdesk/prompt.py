"""The prompt part: the templates that make the search, the request to the model and the refusal."""

from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "prompt")


class Texts(dg.Config):
    """What to change of services/helpdesk/prompt for this bundle."""

    replace: dict[str, str] = Field(default={}, description='Text by part, for example {"query": "Django: {{ question }}"}.')


@dg.asset(
    key=KEY,
    group_name="helpdesk",
    kinds={"jinja"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version(
        *(f"services/helpdesk/prompt/{name}" for name in ("prompt.yaml", "system.txt", "user.txt", "query.txt"))
    ),
    description="Templates with declared variables; checked, rendered once with sample values, and frozen.",
)
def prompt(context: dg.AssetExecutionContext, config: Texts, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Lay the replacements over the project's templates, check and freeze them."""
    import tempfile
    from pathlib import Path

    from lastgood.bundle import store as artifacts
    from services.helpdesk import prompting

    store = artifacts.Store(settings.store)
    with tempfile.TemporaryDirectory() as scratch:
        frozen, warnings = prompting.freeze(settings.services / "helpdesk" / "prompt", Path(scratch) / "prompt", replace=config.replace)
        stored = store.put(frozen, allow=artifacts.CONFIG_FORMATS)
    part = artifacts.part(
        stored, name="prompt", media_type="application/vnd.lastgood.prompt", meta=prompting.meta(store.path(stored.digest))
    )
    texts = {
        f"text/{name}": dg.MetadataValue.md(f"```text\n{text}\n```") for name, text in prompting.texts(store.path(stored.digest)).items()
    }
    return parts.result(
        context, part, provenance={"replaced": sorted(config.replace)}, metadata={**texts, "warnings": "; ".join(warnings) or "none"}
    )
