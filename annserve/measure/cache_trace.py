"""Traces of which pages queries read, recorded from an index and replayed through caches.

A trace is an ``.npz`` without objects: ``pages`` (p,) uint32, those of all queries one after another; ``ranks`` (p,)
uint8, a page's place in its plan by worth, 0 the best; ``offsets`` (nq + 1,) int64; ``first`` (nq,) int64, the first
query of the same bytes; ``sessions`` (nq,) int64, who asks, 0 for nobody in particular; ``n_pages`` and ``page_bytes``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError, NotFoundError
from annserve.index.snapshot import Snapshot, at_current
from annserve.measure.cache_policies import POLICIES, Stream
from annserve.metric import queries_to_space
from annserve.search.choosers import chooser_for
from annserve.search.clock import Clock
from annserve.spec import check_vectors

_BLOCK = 64
_RANK_MAX = 255
#: What the product gives to answers, and takes for one of ten.
_ANSWERS_SHARE, _ANSWER_BYTES = 1 / 16 * 9 / 16, 168


@dataclass(frozen=True)
class CacheTrace:
    """Pages that queries read, in their order; see above."""

    pages: npt.NDArray[np.uint32]
    ranks: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    n_pages: int
    page_bytes: int

    def __len__(self) -> int:
        return len(self.first)

    def stream(self, left: npt.NDArray[np.bool_], bits: npt.NDArray[np.int64]) -> Stream:
        """Give the pages that some of the queries ask for; `bits` are those of all, see `predictions`."""
        counts = np.diff(self.offsets)
        asked = np.repeat(left, counts)
        pages, bits = self.pages[asked], bits[asked]
        offsets = np.concatenate(([0], np.cumsum(counts[left])))
        return Stream(pages.tolist(), bits.tolist(), offsets.tolist(), self.sessions[left].tolist())

    def as_bytes(self) -> bytes:
        """Give the file of it."""
        file = BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(one) for name, one in vars(self).items()}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    def reordered(self, order: npt.NDArray[np.int64]) -> CacheTrace:
        """Give the same queries in another order."""
        counts = np.diff(self.offsets)[order]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        which = np.repeat(self.offsets[order] - offsets[:-1], counts) + np.arange(offsets[-1])
        earliest: dict[int, int] = {}
        first = [earliest.setdefault(int(one), i) for i, one in enumerate(self.first[order])]
        ranks, first_of = self.ranks[which], np.array(first, np.int64)
        return CacheTrace(
            self.pages[which], ranks, offsets, first_of, self.sessions[order], self.n_pages, self.page_bytes
        )


def record_trace(
    index: Path, queries: npt.NDArray[Any], k: int, recall_target: float, sessions: npt.NDArray[Any] | None = None
) -> CacheTrace:
    """Choose the pages of queries as a search does, without reading any.

    Parameters
    ----------
    index : path
    queries : (nq, dim) array
    k : int
    recall_target : float
    sessions : (nq,) array, optional
        What tells the session of each query from others.

    Raises
    ------
    InputError
        If queries don't fit the index, or it has several segments, or there isn't a session for each query.
    """
    if sessions is not None and sessions.shape != (len(queries),):
        raise InputError(
            f"there are {len(sessions)} sessions for {len(queries)} queries; give one for each", field="sessions"
        )
    asked_by = np.zeros(len(queries), np.int64)
    if sessions is not None:
        asked_by = np.unique(sessions, return_inverse=True)[1] + 1
    return at_current(index, lambda snapshot: _record(snapshot, queries, k, recall_target, asked_by))


def _record(
    snapshot: Snapshot, queries: npt.NDArray[Any], k: int, recall_target: float, sessions: npt.NDArray[np.int64]
) -> CacheTrace:
    (segment, *more), manifest = snapshot.segments, snapshot.manifest
    if more:
        raise InputError("a trace is of one segment; run 'annserve compact INDEX' first", field="index")
    vectors = check_vectors(queries, manifest.spec)
    chooser = chooser_for(segment)
    norm_max = manifest.norm_max_of(manifest.segments[0])
    pages, ranks, counts = [], [], []
    for start in range(0, len(vectors), _BLOCK):
        space = queries_to_space(vectors[start : start + _BLOCK], manifest.spec, norm_max)
        choice = chooser.choose(space, k, recall_target, Clock())
        rating = choice.evidence().rating if choice.evidence else None
        for i, chosen in enumerate(np.split(choice.selection.page_ids, choice.selection.offsets[1:-1])):
            pages.append(chosen)
            counts.append(len(chosen))
            worth_of = dict(zip(rating.pages[i].tolist(), rating.worths[i].tolist())) if rating else {}
            worths = np.array([worth_of.get(page, 0.0) for page in chosen.tolist()])
            ranks.append(np.argsort(np.argsort(-worths, kind="stable")).clip(max=_RANK_MAX).astype(np.uint8))
    earliest: dict[bytes, int] = {}
    first = [earliest.setdefault(vector.tobytes(), i) for i, vector in enumerate(vectors)]
    return CacheTrace(
        np.concatenate(pages),
        np.concatenate(ranks),
        np.concatenate(([0], np.cumsum(counts))),
        np.array(first, np.int64),
        sessions,
        segment.n_pages,
        manifest.spec.page_bytes,
    )


def read_trace(path: Path) -> CacheTrace:
    """Read a trace.

    Raises
    ------
    NotFoundError
        If there is none.
    InputError
        If it is no trace, or says what can't be.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in CacheTrace.__dataclass_fields__}
    except FileNotFoundError:
        raise NotFoundError(f"there is no trace {path}; record one with 'annserve bench trace'") from None
    except Exception:  # whatever a file that is no such archive makes of NumPy's reader
        raise InputError(
            f"{path} is no trace; record one with 'annserve bench trace INDEX QUERIES --out FILE'", field="trace"
        ) from None
    kinds = {"pages": "uint32", "ranks": "uint8", "offsets": "int64", "first": "int64", "sessions": "int64"}
    arrays = all(found[name].ndim == 1 and found[name].dtype == kind for name, kind in kinds.items())
    if not arrays or not _agree(found):
        raise InputError(f"{path} is no trace of 'annserve bench trace': its arrays disagree", field="trace")
    n_pages, page_bytes = int(found.pop("n_pages")), int(found.pop("page_bytes"))
    return CacheTrace(**found, n_pages=n_pages, page_bytes=page_bytes)


def _agree(found: dict[str, npt.NDArray[Any]]) -> bool:
    pages, offsets, first = found["pages"], found["offsets"], found["first"]
    return bool(
        len(found["ranks"]) == len(pages)
        and len(offsets) == len(first) + 1 == len(found["sessions"]) + 1 > 1
        and offsets[0] == 0
        and offsets[-1] == len(pages)
        and (np.diff(offsets) >= 0).all()
        and found["n_pages"].size == found["page_bytes"].size == 1
        and len(pages) > 0
        and pages.max() < found["n_pages"]
        and (first <= np.arange(len(first))).all()
        and first.min() >= 0
    )


def replay(trace: CacheTrace, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Replay a trace through every policy.

    Parameters
    ----------
    trace : CacheTrace
    shares : sequence of float
        Sizes of caches, as shares of the index's pages.

    Returns
    -------
    list of dict
        For each size: ``share``, ``slots``; ``missed`` and ``missed_beside_answers``, by policy, as shares of all pages
        asked for: the second with room for answers to repeated queries taken from the same bytes; and ``repeats``, the
        share of queries that those answer.
    """
    bits, n_asked = predictions(trace), len(trace.pages)
    everything = trace.stream(np.ones(len(trace), np.bool_), bits)
    records = []
    for share in shares:
        slots = max(int(share * trace.n_pages), 2)
        repeated = answered(trace, int(_ANSWERS_SHARE * slots * trace.page_bytes / _ANSWER_BYTES))
        rest, fewer = trace.stream(~repeated, bits), max(slots * 15 // 16, 2)
        records.append(
            {
                "share": share,
                "slots": slots,
                "missed": {name: policy(everything, slots) / n_asked for name, policy in POLICIES.items()},
                "missed_beside_answers": {name: policy(rest, fewer) / n_asked for name, policy in POLICIES.items()},
                "repeats": float(repeated.mean()),
            }
        )
    return records


def predictions(trace: CacheTrace) -> npt.NDArray[np.int64]:
    """Say of each page asked for whether it looks needless to keep: worth little to its query, and rarely asked for."""
    seen: Counter[int] = Counter()
    bits = []
    half = np.repeat(np.diff(trace.offsets) / 2, np.diff(trace.offsets))
    for page, low in zip(trace.pages.tolist(), (trace.ranks >= half).tolist()):
        bits.append(int(low and seen[page] < 2))
        seen[page] += 1
    return np.array(bits, np.int64)


def answered(trace: CacheTrace, size: int) -> npt.NDArray[np.bool_]:
    """Say which queries so many kept answers serve: kept at the second time of asking, by least recent use."""
    held: OrderedDict[int, None] = OrderedDict()
    seen: set[int] = set()
    found = np.zeros(len(trace), np.bool_)
    for i, query in enumerate(trace.first.tolist()):
        if query in held:
            found[i] = True
            held.move_to_end(query)
        elif query in seen and size:
            held[query] = None
            if len(held) > size:
                held.popitem(last=False)
        seen.add(query)
    return found
