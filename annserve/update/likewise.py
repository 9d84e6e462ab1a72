"""A further segment is built like those that are there: same shape, same way to choose pages, same RAM a vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annserve.design.budget import ram_per_vector
from annserve.design.options import RERANKS, BuildOptions
from annserve.errors import InputError
from annserve.index.segment import Segment
from annserve.index.snapshot import Snapshot
from annserve.vectors.formats import open_vectors
from annserve.vectors.source import VectorSource

_DEFAULTS = BuildOptions()


@dataclass(frozen=True)
class LikewiseOptions:
    """What may be told of a further segment; where None stands, those that are there decide.

    Parameters
    ----------
    ram : str, optional
        What a search may keep in RAM for it; as many bytes a vector as before by default.
    codes : str, optional
        How its pages are chosen; as before by default.
    threads : int
        Threads of the build; 0 takes one per CPU of this process.
    ram_build : str, optional
        RAM that the build stays within; half of what is free by default.
    scratch_limit : str, optional
        Disk that the build's own files may take; what is free by default.
    """

    ram: str | None = None
    codes: str | None = None
    threads: int = 0
    ram_build: str | None = None
    scratch_limit: str | None = None


def options_likewise(snapshot: Snapshot, **told: Any) -> BuildOptions:
    """Give the options of a further segment: those of the largest that is there, but for what is told.

    Parameters
    ----------
    snapshot : Snapshot
    told : dict
        Options of a build; None leaves one to the segment.

    Raises
    ------
    InputError
        If what is told fits no build.
    """
    spec = snapshot.manifest.spec
    segment = max(snapshot.segments, key=lambda one: one.n_rows)
    before: dict[str, Any] = segment.report.get("options", {})
    recorded: dict[str, Any] = {name: before[name] for name in ("calibration_queries", "seed") if name in before}
    budget = ram_per_vector(before.get("ram", _DEFAULTS.ram), spec, segment.n_rows)
    likewise: dict[str, Any] = {
        **recorded,
        "metric": spec.metric,
        "page_bytes": spec.page_bytes,
        "ram": f"{budget:.6f}B",
        "codes": mode_of(segment),
        "rerank": "none",
    }
    raw = segment.raw
    if raw is not None:
        likewise["rerank"] = raw.layout.spec.row_type if raw.layout.spec.row_type in RERANKS else "auto"
        if not raw.layout.own:
            likewise["rerank_metric"] = raw.layout.spec.metric
    likewise |= {name: value for name, value in told.items() if value is not None}
    if likewise["codes"] == "none":
        likewise.setdefault("replicas", before.get("replicas", 1))
    return BuildOptions(**likewise)


def mode_of(segment: Segment) -> str:
    """Say how a segment's pages are chosen, one of ``design.options.MODES``."""
    if segment.codes is None:
        return "none"
    return "ssd" if segment.vicinities is not None else "ram"


def require_alike(source: VectorSource, rerank_with: Path | None, snapshot: Snapshot) -> None:
    """Make sure that vectors can be rows of an index, and that they bring as many encoders as it keeps.

    Raises
    ------
    InputError
        If dimension or type differ, or another encoder's vectors are missing, or not wanted.
    """
    spec, raw = snapshot.manifest.spec, snapshot.segments[0].raw
    if (source.dim, source.dtype.name) != (spec.dim, spec.row_type):
        raise InputError(
            f"{source.path} holds {source.dtype} vectors of dimension {source.dim}, but the index is of "
            f"{spec.row_type} and {spec.dim}; convert them, or build an index of their own"
        )
    other = raw.layout.spec if raw is not None and not raw.layout.own else None
    if (other is None) != (rerank_with is None):
        wanted = "rerank_with must name those of the new rows" if other else "leave rerank_with out"
        raise InputError(
            f"the index keeps {'' if other else 'no '}vectors of another encoder: {wanted}", field="rerank_with"
        )
    if other is None or rerank_with is None:
        return
    with open_vectors(rerank_with) as again:
        found = (again.dim, other.row_type if other.row_type in RERANKS else again.dtype.name)
        if found != (other.dim, other.row_type):
            raise InputError(
                f"{rerank_with} holds {again.dtype} vectors of dimension {again.dim}, but the index keeps "
                f"{other.row_type} of {other.dim}; give those of the same encoder",
                field="rerank_with",
            )


@dataclass(frozen=True)
class Updated:
    """What an update made.

    Attributes
    ----------
    snapshot : int
        The version that was published.
    segment : str
        Name of the segment that was built.
    rows : int
        Its rows.
    rows_in_all, segments : int
        Of the index now.
    seconds : float
    """

    snapshot: int
    segment: str
    rows: int
    rows_in_all: int
    segments: int
    seconds: float
