"""People: pages as files, what they say, the ways they take, and delivery until they arrive."""
