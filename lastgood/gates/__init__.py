"""Gates: from evidence to a verdict. Pure: no clock, no file, no network; the numbers come from `sources`.

    sources -> Observation -> GateState (one gate's evidence so far) -> Verdict

What does not belong here: what a service declares (`service.gates`), what a verdict leads to (`analysis.policy`, `core`).
"""
