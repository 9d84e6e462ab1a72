"""Which settings of a system are reported: the cheapest that reaches a target, and those that nothing beats.

Settings are chosen on queries of their own, which no result counts. So no system is flattered by having been
picked on the very queries that it is then judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PAGE_BYTES = 4_096
#: Times that differ by less than this factor are one time: a setting isn't preferred for the noise of a clock.
_SAME_TIME = 1.25


def pages_of(record: Mapping[str, Any], lies: str) -> tuple[float | None, str | None]:
    """Give the pages of a query, and who counted them.

    That is the system itself; or the kernel, for one that reads past the page cache and keeps no count; or nobody.
    """
    if record["pages_read_mean"] is not None:
        return float(record["pages_read_mean"]), "system"
    if lies == "disk" and record["device_bytes_read_mean"] is not None:
        return float(record["device_bytes_read_mean"]) / _PAGE_BYTES, "kernel"
    return None, None


def cost_of(record: Mapping[str, Any]) -> float:
    """Give what a query costs under a setting: pages where they are counted, else the median of its microseconds."""
    return float(record["latency_us_p50"] if record["pages"] is None else record["pages"])


def cheapest(tuned: Sequence[Mapping[str, Any]], recall_target: float, k: int) -> int:
    """Choose the cheapest setting that reaches a target; if none does, the one of highest recall.

    Of settings that take the same time, as far as a clock can tell, the one of lowest recall does the least work.

    Parameters
    ----------
    tuned : sequence of mapping
        One record for each setting, of ``annserve.measure.summary``.
    recall_target : float
    k : int

    Returns
    -------
    int
        Number of the setting.
    """
    name = f"recall_{k}_at_{k}"
    reaching = [place for place, record in enumerate(tuned) if record[name] >= recall_target]
    if reaching:
        least = min(reaching, key=lambda place: cost_of(tuned[place]))
        if tuned[least]["pages"] is not None:
            return least
        limit = cost_of(tuned[least]) * _SAME_TIME
        near = (place for place in reaching if cost_of(tuned[place]) <= limit)
        return min(near, key=lambda place: (tuned[place][name], cost_of(tuned[place])))
    return max(range(len(tuned)), key=lambda place: (tuned[place][name], -cost_of(tuned[place])))


def outdone(point: Mapping[str, Any], tuned: Sequence[Mapping[str, Any]], highest_target: float, k: int) -> bool:
    """Say whether a setting needn't be tried, as one that asks for no more has recall to spare at the highest target.

    That is half of what the target may miss. Of the numbers in a grid, more finds more and costs more; so the setting
    can't be the cheapest at any target.

    Parameters
    ----------
    point : mapping
        The setting.
    tuned : sequence of mapping
        One record for each setting that was tried.
    highest_target : float
    k : int
    """
    plenty = (1 + highest_target) / 2
    return any(
        record[f"recall_{k}_at_{k}"] >= plenty and all(value <= point[name] for name, value in record["point"].items())
        for record in tuned
    )


def frontier(tuned: Sequence[Mapping[str, Any]], k: int) -> list[int]:
    """Give the settings that no other beats in both recall and cost, by ascending recall."""
    name = f"recall_{k}_at_{k}"
    order = sorted(range(len(tuned)), key=lambda place: (-tuned[place][name], cost_of(tuned[place])))
    best: list[int] = []
    for place in order:
        if not best or cost_of(tuned[place]) < cost_of(tuned[best[-1]]):
            best.append(place)
    return best[::-1]
