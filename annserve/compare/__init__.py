"""Systems side by side: every data set, every system, every setting of a job, each in a process of its own.

::

    job ──> datasets ──> prepare ──┐
    (TOML)  (where it lies)        ├──> execute ──> results (JSON) ──> table, pictures, page
    peers ──> environments ────────┘       │  └─ choose (which setting is reported)
    (peer.toml)  (a venv each)             └─ worker (JSON lines)  ── peer (the contract of an adapter)

The systems themselves are adapters outside of the package (``bench/peers/<peer>/``), annserve's own among them, so
that all are measured by the same lines. What is measured in one process, and how it is judged, stands in
``annserve.measure``; nothing of it is repeated here.
"""
