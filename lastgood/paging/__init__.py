"""Notifying people: pages as files, their text, the channels, and delivery until they arrive."""
