"""Whether live traffic still resembles the data the bundle was built on, and what follows if it does not.

Pure (no clock, no file but a reference that is handed in):

reference            the sample that travels in a bundle, and how it is written
distances            how far two samples of a column are apart; the same numbers as Evidently's
calibration          how far stretches of the reference are from the rest of it: what is usual
verdict              the result for one window
losses               whether the answers have become worse, over all windows so far
kept_state           states in which alarms were decided as `keep`: usual from then on
judging              windows judged one after the other, whoever reads their rows
looks                when an open alarm is looked at, and with which part of alpha
alarm                what a run of windows amounts to: an alarm opens or closes
comparison           whether one bundle is worse than another on the same labelled rows

With the log, the store and the ledger:

window               a window of the inference log, read as a sample
bundle_reference     the reference of one bundle, calibrated and cached
watch                evaluates each window once and records the result
bundle_comparison    two bundles run on the same labelled rows
fitness              whether the rollback target is of any use now, compared with its own reference
decision             what an alarm leads to: roll back, retrain, keep, or ask
backtest             all of this on a table of the past
evidently_report     Evidently's page for people

What does not belong here: what a service declares (`service.drift`), the log itself (`serving.segments`), tables of measurements (`ledger`).
"""
