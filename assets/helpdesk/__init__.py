"""The service `helpdesk`: corpus, models, prompt, index, configuration and environment, frozen into one bundle."""

from assets.helpdesk import bundle, checks, corpus, evaluation, expectations, index, model, prompt, source
from dagster_lastgood import Service, part_assets

OWNERS = ["team:helpdesk-on-call"]
CODE = [f"services/helpdesk/{name}" for name in ("service.yaml", "runtime.py", "retrieval.py", "pins.py", "signals.py")]

SERVICE = Service(
    name="helpdesk",
    owners=OWNERS,
    source=source.source,
    made=[
        corpus.corpus,
        model.model,
        prompt.prompt,
        index.index,
        part_assets.config("helpdesk", owners=OWNERS, code=CODE),
        part_assets.environment("helpdesk", owners=OWNERS),
        evaluation.evaluation,
        bundle.bundle,
    ],
    checks=checks.ALL,
    build="build_helpdesk",
    description="Make all parts of helpdesk, check and evaluate them, and freeze them into a registered bundle. Changes nothing that serves.",
    expectations=expectations.live,
    expected={
        "schema": "Requests have a question, and nothing else.",
        "questions": "Questions are as long as questions are, in words, and not one of them over and over.",
    },
)
