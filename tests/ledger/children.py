"""Work in a process of its own, which a fault may kill; the ledger is what is left of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from lastgood.ledger import Ledger, connect
from lastgood.system import failpoints


def killed(url: str, fault: str, work: Callable[[Ledger], object]) -> int:
    """Do *work* on the ledger at *url* in a forked process with *fault* armed: how it ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            with failpoints.armed(fault), connect(url) as ledger:
                work(ledger)
            code = 0
        except Exception:  # noqa: BLE001  # the parent looks at the code; nothing may run on in the child
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
