"""What a build can be told; the command line, the report and the manifest use these very names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from annserve.errors import InputError
from annserve.sizes import budget_of, bytes_of
from annserve.spec import METRICS

#: Ways to choose pages: by codes of rows in RAM, by such on the SSD, or by heads alone.
MODES = ("ram", "ssd", "none")
#: One of these, or what reads the fewest pages.
CODES = ("auto", *MODES)
#: Raw rows kept for re-ranking: where INT8 loses too much, never, or always in a type.
RERANKS = ("auto", "none", "float32", "float16")
#: Copies of a row; SPANN's.
REPLICAS_MAX = 8


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Parameters
    ----------
    metric : str
        ``l2``, ``ip`` or ``cosine``.
    ids : Path, optional
        File with one whole number per row; row numbers 0 … n−1 by default.
    column : str, optional
        Array or column of the input file that holds the vectors, where it has several.
    skip_invalid : bool
        Whether rows that can't be indexed (NaN, infinity, beyond 1e15, zero under cosine) are left out, counted and
        listed in the report, instead of being an error. The others keep their row numbers.
    ram : str
        What a search may keep in RAM: a share of the INT8 size (``25%``), bytes a vector (``20B``) or a total
        (``2GiB``). More RAM, fewer reads.
    codes : str
        ``ram``: short codes of pages and rows, as long as the budget allows. ``ssd``: codes of pages alone in RAM,
        those of rows on the SSD, read before the pages are chosen. ``none``: heads alone choose pages. ``auto``: the
        one of them that reads the fewest pages for the budget (``design.choose``).
    rerank : str
        Raw rows kept on disk, to settle what INT8 leaves open: ``auto``, as given, where INT8 alone would lose too
        many neighbours; ``none``; or always, as ``float32`` or ``float16``.
    rerank_with : Path, optional
        File with another encoder's vectors, one per row: raw rows that rank candidates by a second query.
    rerank_metric : str, optional
        Metric of those vectors; the index's own by default.
    replicas : int
        Copies of a row at most, 1 … 8, where heads alone choose: rows near a border are filed under heads beyond it
        too. More disk, fewer reads.
    page_bytes : int
        Bytes of a page, a multiple of 4,096; 0 takes the smallest that holds a row, or what `disk` says.
    disk : Path, optional
        Prices of the disk that will be read, by ``probe-disk --out``: pages get the size that costs it least.
    calibrate_with : Path, optional
        File with some hundreds of queries as they will be asked: recall is then delivered to such, in fewer reads.
    calibration_queries : int
        Rows that calibration holds out and asks for.
    seed : int
        Fixes every random choice: same input, options and seed give the same files.
    threads : int
        Threads of the build; 0 takes one per CPU of this process.
    ram_build : str, optional
        RAM that the build stays within, such as ``2GiB``: fewer threads and smaller partitions where it is little. By
        default half of what is free.
    scratch_limit : str, optional
        Disk that files of the build itself may take, beside the index; by default what is free.
    """

    metric: str = "l2"
    ids: Path | None = None
    column: str | None = None
    skip_invalid: bool = False
    ram: str = "25%"
    codes: str = "auto"
    rerank: str = "auto"
    rerank_with: Path | None = None
    rerank_metric: str | None = None
    replicas: int = 1
    page_bytes: int = 0
    disk: Path | None = None
    calibrate_with: Path | None = None
    calibration_queries: int = 3_000
    seed: int = 0
    threads: int = 0
    ram_build: str | None = None
    scratch_limit: str | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("calibration_queries", 10, 1_000_000),
            ("seed", 0, 2**63 - 1),
            ("threads", 0, 4_096),
            ("replicas", 1, REPLICAS_MAX),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} is {value}; it must lie between {least} and {most}", field=name)
        budget_of(self.ram)
        for name in ("ram_build", "scratch_limit"):
            if getattr(self, name) is not None:
                bytes_of(getattr(self, name), name)
        for name, choices in (("codes", CODES), ("rerank", RERANKS), ("rerank_metric", (None, *METRICS))):
            if getattr(self, name) not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise InputError(f"{name} is {getattr(self, name)!r}; use one of {known}", field=name)
        if self.replicas > 1 and self.codes != "none":
            raise InputError(
                f"replicas is {self.replicas}, but codes choose single pages and find a row at its home; give "
                "--codes none too, or leave replicas at 1",
                field="replicas",
            )
        if self.rerank_with is not None and self.rerank == "none":
            raise InputError("rerank is 'none', but rerank_with names vectors; leave one of them out", field="rerank")
        if self.rerank_with is None and self.rerank_metric is not None:
            raise InputError(
                "rerank_metric is for another encoder's vectors, but rerank_with names none", field="rerank_metric"
            )

    @property
    def n_threads(self) -> int:
        """Threads to use."""
        return self.threads or len(os.sched_getaffinity(0))
