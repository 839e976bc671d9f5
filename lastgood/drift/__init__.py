"""Whether live traffic still resembles the data the bundle was built on, and what follows if it does not.

Pure (no clock, no file but a reference that is handed in):

reference            the sample that travels in a bundle, and how it is written
distances            how far two samples of a column are apart; the same numbers as Evidently's
calibration          how far stretches of the reference are from the rest of it: what is usual
verdict              what one window comes to
losses               whether the answers have become worse, over all windows so far
kept                 states in which alarms came to `keep`: usual from there on
judging              windows one after the other, whoever reads their rows
looks                when an open alarm is looked at, with which part of alpha
alarm                what a row of windows comes to
comparison           whether one bundle is worse than another on the same labelled rows

With the log, the store and the ledger:

window               a window of the inference log, read as a sample
bundle_reference     the reference of one bundle, calibrated and cached
watch                looks at each window once and records what it came to
bundle_comparison    two bundles run on the same labelled rows
fitness              whether the bundle behind is any use now, beside its own reference
decision             what an alarm leads to: roll back, retrain, keep, or ask
backtest             all of that on a table of the past
evidently_report     Evidently's page for people

What does not belong here: what a service declares (`service.drift`), the log itself (`serving.segments`), tables of measurements (`ledger`).
"""
