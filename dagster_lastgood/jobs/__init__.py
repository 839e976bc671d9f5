"""Jobs that work on any service; each calls one verb of lastgood and reports its outcome."""
