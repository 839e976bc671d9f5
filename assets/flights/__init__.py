"""The service `flights`: data, model, configuration and environment, frozen into one bundle."""

from assets.flights import data, expectations, model
from dagster_lastgood import Part, Service, Training, automation, data_checks

OWNERS = ["team:flights-on-call"]

SERVICE = Service(
    name="flights",
    owners=OWNERS,
    source=automation.source(
        "flights", data.version, owners=OWNERS, description="The files and months that params.yaml names; a change makes a new bundle."
    ),
    parts={
        "data": Part(data.data, media_type="application/vnd.apache.parquet", kinds=["dvc", "parquet"], code=data.CODE),
        "model": Part(
            model.model,
            media_type="application/vnd.skops",
            kinds=["scikitlearn", "mlflow"],
            code=model.CODE,
            training=Training(model.log_model, datasets={"data/train.parquet": "training", "data/evaluate.parquet": "evaluation"}),
        ),
    },
    on_bundle={"evaluation": ("model", "evaluation"), "model against stable": ("model", "against stable")},
    checks=[
        data_checks.checks(
            "flights",
            "data",
            expectations.DATA,
            tables=data_checks.parquet("train", "evaluate"),
            suite=expectations.suite,
            more=expectations.giveaways,
            op="data_checks",
            description="Great Expectations on the tables to train on and to evaluate on.",
        )
    ],
    build="build",
    expectations=expectations.live,
    expected=expectations.LIVE,
)
