"""The ledger: the only source of truth about what serves, and the only writer of SQL."""

from lastgood.ledger.dialect import DiskFull
from lastgood.ledger.leases import Fence
from lastgood.ledger.ledger import Ledger, connect
from lastgood.ledger.readiness import Seen
from lastgood.ledger.rows import SALT, BundleRow, Delivery, Evaluation, Page, Readiness, Revision

__all__ = ["SALT", "BundleRow", "Delivery", "DiskFull", "Evaluation", "Fence", "Ledger", "Page", "Readiness", "Revision", "Seen", "connect"]
