"""For tests, including yours: a free port, in-memory layers, and a small project with bundles to release (`lastgood.testing.projects`).

What does not belong here: suites that an adapter has to pass (`conformance`).
"""

from lastgood.testing.layers import MemoryInfrastructure, MemoryRegistry, MemoryTraffic
from lastgood.testing.ports import free_port

__all__ = ["MemoryInfrastructure", "MemoryRegistry", "MemoryTraffic", "free_port"]
