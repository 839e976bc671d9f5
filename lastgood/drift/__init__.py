"""Whether what comes in still looks like what the bundle was trained on. Pure: no clock, no files but a reference that is handed in.

reference       the sample that travels in a bundle, and how it is written
distances       how far two samples of a column are apart; the same numbers as Evidently's
calibration     how far stretches of the reference are from the rest of it: what is usual
verdict         what one window comes to
alarm           what a row of windows comes to
comparison      whether one bundle is worse than another on the same labelled rows

What does not belong here: the log (`sources.windows`), the ledger (`ops.drift_watch`), Evidently's pages (`ops.drift_report`).
"""
