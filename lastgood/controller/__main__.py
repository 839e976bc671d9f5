"""`python -m lastgood.controller`: the loops, and beside them what else reads the ledger in this process.

Here alone the two are put together: the loops themselves know nothing of reports.
"""

from lastgood.controller.loop import main
from lastgood.reports.incident_loop import IncidentLoop

if __name__ == "__main__":
    main(readers=(IncidentLoop,))
