"""What makes a record doubtful, said in words: the same for an index, a server and a peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Beyond this share, the kernel's count of bytes and the engine's aren't the same number.
RATIO_SLACK = 0.02
#: Counts of answers that a right system leaves at 0; what a count above it says.
FAULTS = {
    "answers_padded": "answers hold fewer than k results",
    "answers_repeated_id": "answers name a row twice",
    "answers_unordered": "answers aren't sorted by distance",
    "answers_changed": "queries were answered differently from pass to pass",
    "answers_unknown_id": "answers name a row that the base doesn't have",
    "answers_misplaced": "answers give a row another row's distance",
    "answers_beat_truth": "answers hold a row that is nearer than the truth knows: the truth is wrong",
}


def faults_of(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the answers of a record, or with what was counted.

    Parameters
    ----------
    record : mapping
        Of ``annserve.measure.summary``; a fault that wasn't looked for may be missing.
    """
    for name, text in FAULTS.items():
        if record.get(name):
            yield f"{record[name]} {text}"
    ratio = record.get("device_bytes_ratio")
    # Without the system's caches, what is mapped (heads, codes) comes from the disk again, and is no page of a query.
    if ratio is not None and ratio > 1 + RATIO_SLACK and record.get("load") != "cold":
        yield f"the kernel read {ratio:.2f} times the bytes that the system counts: reads go uncounted"
