"""The service `helpdesk`: corpus, models, prompt, index, configuration and environment, frozen into one bundle."""

from assets.helpdesk import corpus, evaluation, expectations, index, model, prompt
from dagster_lastgood import Part, Service, automation, data_checks, evaluations, index_parts

OWNERS = ["team:helpdesk-on-call"]
FROM_EVALUATION = ("evaluation/recall_at_10", "evaluation/ndcg_at_10")
FROM_INDEX = ("snapshot", *(f"rows/{change}" for change in index.CHANGES))

SERVICE = Service(
    name="helpdesk",
    owners=OWNERS,
    source=automation.source(
        "helpdesk",
        corpus.current_version,
        owners=OWNERS,
        description="The texts of Django's documentation; a change makes a new bundle.",
    ),
    parts={
        "corpus": Part(corpus.corpus, name="data", media_type="application/jsonl", kinds=["dvc", "text"], code=corpus.CODE),
        "model": Part(model.model, media_type="application/vnd.lastgood.models", kinds=["safetensors"], code=model.CODE),
        "prompt": Part(prompt.prompt, media_type="application/vnd.lastgood.prompt", kinds=["jinja"], code=prompt.CODE),
        "index": index_parts.index(index.index, kinds=["lancedb"], code=["services/helpdesk/build.py"]),
    },
    evaluation=evaluations.Evaluation(evaluation.evaluation, code=["services/helpdesk/evaluate.py"]),
    on_bundle={name: ("evaluation", name) for name in FROM_EVALUATION} | {name: ("index", name) for name in FROM_INDEX},
    checks=[
        data_checks.checks(
            "helpdesk",
            "corpus",
            expectations.CORPUS,
            tables=expectations.chunks,
            suite=expectations.suite,
            more=expectations.secrets,
            op="corpus_checks",
            description="Great Expectations on the chunks.",
        ),
        index_parts.replica("helpdesk"),
    ],
    description="Make all parts of helpdesk, check and evaluate them, and freeze them into a registered bundle. Changes nothing that serves.",
    expectations=expectations.live,
    expected=expectations.LIVE,
)
