"""The ledger: the only truth about what serves, and the only writer of SQL."""

from lastgood.ledger.dialect import DiskFull
from lastgood.ledger.ledger import Ledger, connect
from lastgood.ledger.rows import BundleRow, Evaluation, Revision

__all__ = ["BundleRow", "DiskFull", "Evaluation", "Ledger", "Revision", "connect"]
