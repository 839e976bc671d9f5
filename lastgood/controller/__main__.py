"""`python -m lastgood.controller`: the loops, together with the other readers of the ledger in this process.

They are combined only here: the loops themselves know nothing of reports.
"""

from lastgood.controller.loop import main
from lastgood.reports.incident_loop import IncidentLoop

if __name__ == "__main__":
    main(readers=(IncidentLoop,))
