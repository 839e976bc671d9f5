"""Whether a single column reveals the label, which no feature that is known in advance does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

GIVEAWAY = 0.45
"""How far a single column's AUC may be from a coin toss's 0.5. The best honest column of any month of flights reaches 0.16;
a leaked delay 0.5."""


def single_auc(values: "pd.Series", label: "pd.Series") -> float:
    """AUC of one column as the only feature of a yes-or-no *label*; text is ranked by its share of yes, gaps rank lowest.

    By the rank-sum formula, ties counted half. 0.5 if all labels are equal, since nothing can be inferred then.
    """
    yes = label.astype(bool).to_numpy()
    positive, negative = int(yes.sum()), int((~yes).sum())
    if not positive or not negative:
        return 0.5
    numbers = values.map(label.astype(float).groupby(values).mean()) if values.dtype == object else values
    ranks = numbers.astype(float).fillna(float("-inf")).rank(method="average").to_numpy()
    return float((ranks[yes].sum() - positive * (positive + 1) / 2) / (positive * negative))
