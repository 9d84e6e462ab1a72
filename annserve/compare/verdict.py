"""Two sets of results against each other: what changed, and whether it got worse beyond a threshold.

Counts (recall, pages, reads, bytes, rows scored) don't depend on the clock, so any change of them is a change of
the system. Times do: each is a median with a range over its passes, and two agree if they differ by no more than both
ranges together. A difference counts only beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from annserve.compare.results import COUNTS, KEY, Row

#: Larger is better; of everything else, smaller.
_BETTER_LARGER = ("recall", "qps")
TIMES = ("qps", "latency_us_p50", "latency_us_p99")


@dataclass(frozen=True)
class Change:
    """One number of one row, before and after.

    Attributes
    ----------
    row : str
        The row's name, for people.
    number : str
        ``recall``, ``pages_read_mean``, …
    before, after : float
    worse : float
        How much worse it got, as a share of before; negative where it got better.
    beyond : bool
        Whether it is worse by more than is allowed.
    """

    row: str
    number: str
    before: float
    after: float
    worse: float
    beyond: bool


@dataclass(frozen=True)
class Verdict:
    """All changes, and the names of rows that stand on one side only.

    Attributes
    ----------
    changes : tuple of Change
    only_before, only_after : tuple of str
    times, times_agreeing : int
        Times that both sides have from several passes, and those that agree.
    """

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    times: int
    times_agreeing: int

    @property
    def passed(self) -> bool:
        """Whether nothing got worse than allowed and nothing that was measured is missing."""
        return not self.only_before and not any(change.beyond for change in self.changes)


def compare(
    before: Sequence[Row], after: Sequence[Row], *, counts_worse: float = 0.02, times_worse: float | None = None
) -> Verdict:
    """Compare rows that have the same name.

    Parameters
    ----------
    before, after : sequence of row
    counts_worse : float
        Share by which a count may get worse.
    times_worse : float, optional
        Share by which a time may get worse, beyond the spread; None looks at no times.
    """
    old, new = _named(before), _named(after)
    changes, agreeing = [], []
    for name in (name for name in old if name in new):
        # How many queries are asked may depend on the clock; counts would be of other queries then.
        asked = {row["queries"] for row in (old[name], new[name]) if "queries" in row}
        counts = () if old[name]["load"] == "open" or len(asked) > 1 else COUNTS
        for number in counts + TIMES:
            first, second = old[name].get(number), new[name].get(number)
            if first is None or second is None:
                continue
            worse = _worse(number, float(first), float(second))
            allowed = counts_worse
            if number in TIMES:
                spread = sum(row.get(f"{number}_spread") or 0.0 for row in (old[name], new[name]))
                # One pass alone has no range to agree within.
                if all(len(row.get("passes", ())) != 1 for row in (old[name], new[name])):
                    agreeing.append(abs(worse) <= spread)
                if times_worse is None:
                    continue
                allowed = times_worse + spread
            changes.append(Change(name, number, float(first), float(second), worse, worse > allowed))
    return Verdict(
        tuple(changes),
        tuple(name for name in old if name not in new),
        tuple(name for name in new if name not in old),
        len(agreeing),
        sum(agreeing),
    )


def row_name(row: Row) -> str:
    """Name a row for people."""
    parts = [row["dataset"], row["system"], row["build"], row["load"]]
    parts += [f"{row['rate_share']:.0%} of full rate"] if row.get("rate_share") else []
    return " · ".join([*parts, f"recall {row['target']:g}", f"{row['threads']} callers"])


def _named(rows: Sequence[Row]) -> dict[str, Row]:
    missing = [name for row in rows for name in KEY if name not in row]
    assert not missing, missing
    return {row_name(row): row for row in rows if row["target"] is not None}


def _worse(number: str, before: float, after: float) -> float:
    change = (before - after) if number in _BETTER_LARGER else (after - before)
    if before == 0:
        return 0.0 if change == 0 else float("inf") * (1 if change > 0 else -1)
    return change / before
