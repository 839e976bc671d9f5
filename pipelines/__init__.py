"""Wiring: the code location `lastgood`, put together by dagster_lastgood from the services in `assets` and the sensors in `sensors`."""
