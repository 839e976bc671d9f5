"""The environment part: which locked packages, interpreter and platform a bundle was built with."""

import dagster as dg

from assets import parts
from lastgood import settings as settings_

KEY = parts.key("flights", "environment")


@dg.asset(
    key=KEY,
    group_name="flights",
    kinds={"python"},
    owners=["team:flights-on-call"],
    code_version=parts.code_version("requirements.lock"),
    description="Digest of requirements.lock with the interpreter and the platform.",
)
def environment(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult:
    """Describe the environment this process runs in."""
    from lastgood import artifacts
    from lastgood import environment as environments

    described = environments.describe(settings.project / "requirements.lock")
    stored = artifacts.Store(settings.store).put_bytes(environments.encode(described), name="environment.json")
    part = artifacts.part(stored, name="environment", media_type="application/json", meta=described)
    return parts.result(context, part, provenance={}, metadata={"environment": dg.MetadataValue.json(described)})
