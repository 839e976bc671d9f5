"""A service, its traffic, its controllers and its operators on a virtual clock: one world per seed, in one thread."""
