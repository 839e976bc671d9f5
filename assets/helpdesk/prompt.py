"""The prompt part: the templates for the search, the request to the model and the refusal."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written
from lastgood.settings import Settings

CODE = [f"services/helpdesk/prompt/{name}" for name in ("prompt.yaml", "system.txt", "user.txt", "query.txt")]


class Texts(dg.Config):
    """What to change of services/helpdesk/prompt for this bundle."""

    replace: dict[str, str] = Field(default={}, description='Text by part, for example {"query": "Django: {{ question }}"}.')


def prompt(out: Path, config: Texts, settings: Settings) -> Written:
    """Templates with declared variables; checked, rendered once with sample values, and frozen."""
    from services.helpdesk import prompting

    frozen, warnings = prompting.freeze(settings.services / "helpdesk" / "prompt", out, replace=config.replace)
    texts = {f"text/{name}": dg.MetadataValue.md(f"```text\n{text}\n```") for name, text in prompting.texts(frozen).items()}
    shown = {**texts, "warnings": "; ".join(warnings) or "none"}
    return Written(meta=prompting.meta(frozen), provenance={"replaced": sorted(config.replace)}, metadata=shown)
