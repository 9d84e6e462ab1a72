"""What a search costs and what it delivers: recall, latency, throughput, reads and memory of any target.

::

    workload ──> runner ──> summary ──> report
    (files)      (clock)    (numbers)   (JSON)
                   │           └─ recall, statistics
                   └─ target (contract), counters (the kernel's view)

Absent on purpose: this room knows no index and no server. It measures whatever meets `target.SearchTarget`;
the command line hands it one. Tables and pictures are made from the JSON, elsewhere.
"""
