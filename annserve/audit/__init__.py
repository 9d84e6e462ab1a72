"""Is the recall that was asked for delivered, live? A sample of queries is held against every row.

``exact`` holds queries against all rows, ``reservoir`` samples those that were answered, ``ledger`` adds up what was
found, ``findings`` are what is told of it, ``effort`` corrects what is asked of an index that falls short, ``auditor``
does all that beside a server's searches. Deliberately absent: gRPC, and any share in answering a query.
"""

from annserve.audit.auditor import Auditor
from annserve.audit.effort import Effort
from annserve.audit.exact import Measured, measure_recall
from annserve.audit.findings import Finding, of_all_targets, together
from annserve.audit.ledger import Ledger
from annserve.audit.reservoir import Reservoir, Sample

__all__ = [
    "Auditor",
    "Effort",
    "Finding",
    "Ledger",
    "Measured",
    "Reservoir",
    "Sample",
    "measure_recall",
    "of_all_targets",
    "together",
]
