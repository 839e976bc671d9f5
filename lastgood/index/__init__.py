"""Vector indexes as parts of a bundle: frozen, built anywhere, opened by the bundle that names them.

    snapshot     the index part: rows, vectors, and what they are
    base         the contract of an engine
    lancedb, pgvector, pinecone   engines, found by `catalog`
    embedders    how a text becomes a vector
    fuse         one ranking out of several
    retention    which replicas may go

What does not belong here: which bundle serves (`ledger`), how an answer is written (`llm`).
"""
