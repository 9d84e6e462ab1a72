"""What an index is: dimension, type, metric and page layout, validated once and never changed.

Every other module takes an ``IndexSpec`` where it needs these facts, so they can't disagree. Nothing here
touches a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError

_FLOAT32 = np.dtype(np.float32)

METRICS = ("l2", "ip", "cosine")
ROW_TYPES = ("uint8", "int8", "float16", "float32")

#: Largest dimension: a row and its trailer must fit one page of at most 64 KiB.
DIM_MAX = 32_768
#: Most results of one query; keeps a request's answer and scratch bounded.
K_MAX = 1_000
#: Candidates that a second query ranks for each result, where the caller doesn't say.
RERANK_CANDIDATES_A_RESULT = 10
#: A session's name at most.
SESSION_BYTES_MAX = 128
REQUEST_ID_CHARS_MAX = 64
#: Least cosine at which the answer to an earlier query may be taken for this one's.
COSINE_LEAST = 0.5

#: Largest value of an element: the square of a norm must stay finite in float32.
VALUE_MAX = 1e15
#: What can be wrong with a row, as it reads on after "row N "; a fault is known by its place here.
ROW_FAULTS = (
    "is valid",
    "holds NaN or infinity",
    "holds a value beyond 1e15",
    "is a zero vector, which has no direction: cosine is undefined",
)

#: Names of collections: safe as a folder, a label and a part of a URL, on any system.
COLLECTION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

#: Recall targets that a build calibrates; requests between two of them are interpolated.
RECALL_TARGETS = (0.80, 0.85, 0.90, 0.95, 0.98, 0.99)
RECALL_TARGET_DEFAULT = 0.95

#: A page: the unit of one read, and what a direct read must be aligned to.
PAGE_BYTES_MIN = 4_096
PAGE_BYTES_MAX = 65_536
PAGE_HEADER_BYTES = 16
ID_BYTES = 8
#: Scale and error bound of one row, float32 each; integer rows are stored as they are and need neither.
ROW_FACTOR_BYTES = 8


@dataclass(frozen=True)
class IndexSpec:
    """The facts about an index that never change.

    Parameters
    ----------
    dim : int
        Dimension of a vector, 1 to `DIM_MAX`.
    row_type : str
        Type of the vectors as they were given: one of `ROW_TYPES`.
    metric : str
        ``l2`` (squared Euclidean distance), ``ip`` (inner product) or ``cosine``.
    page_bytes : int
        Bytes of a page, a multiple of 4,096; 0 takes the smallest that holds a row.

    Raises
    ------
    InputError
        If one of them is out of range or a page can't hold a row.
    """

    dim: int
    row_type: str
    metric: str
    page_bytes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= DIM_MAX:
            raise InputError(f"dim is {self.dim}; it must lie between 1 and {DIM_MAX}", field="dim")
        if self.row_type not in ROW_TYPES:
            raise InputError(
                f"row type {self.row_type!r} isn't supported; use one of {', '.join(ROW_TYPES)}",
                field="row_type",
            )
        if self.metric not in METRICS:
            raise InputError(f"metric {self.metric!r} is unknown; use one of {', '.join(METRICS)}", field="metric")
        if self.page_bytes == 0:
            needed = PAGE_HEADER_BYTES + self.slot_bytes
            pages = -(-needed // PAGE_BYTES_MIN)
            object.__setattr__(self, "page_bytes", pages * PAGE_BYTES_MIN)
        if self.page_bytes % PAGE_BYTES_MIN or not PAGE_BYTES_MIN <= self.page_bytes <= PAGE_BYTES_MAX:
            raise InputError(
                f"page_bytes is {self.page_bytes}; it must be a multiple of {PAGE_BYTES_MIN}, at most {PAGE_BYTES_MAX}",
                field="page_bytes",
            )
        if self.page_capacity < 1:
            raise InputError(
                f"a page of {self.page_bytes} bytes can't hold a row of {self.dim} dimensions "
                f"({self.slot_bytes} bytes); use larger pages",
                field="page_bytes",
            )

    @property
    def lossless(self) -> bool:
        """Whether rows are stored exactly as given (integer input)."""
        return self.row_type in ("uint8", "int8")

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of a stored row's elements: uint8 for uint8 input, int8 for everything else."""
        return np.dtype(np.uint8 if self.row_type == "uint8" else np.int8)

    @property
    def slot_bytes(self) -> int:
        """Bytes that one row takes on a page: id, factors, elements."""
        return ID_BYTES + (0 if self.lossless else ROW_FACTOR_BYTES) + self.dim

    @property
    def page_capacity(self) -> int:
        """Rows on a full page (30 at 128 uint8 dimensions, 10 at 384 float ones)."""
        return (self.page_bytes - PAGE_HEADER_BYTES) // self.slot_bytes

    @property
    def space_dim(self) -> int:
        """Dimension of the index space, where every metric is L2 (see ``annserve.metric``)."""
        return self.dim + 1 if self.metric == "ip" else self.dim

    @property
    def space_dtype(self) -> np.dtype[Any]:
        """Type of vectors in the index space: integers under L2 stay as they are, the rest is float32."""
        if self.metric == "l2" and self.lossless:
            return np.dtype(self.row_type)
        return np.dtype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, for the manifest."""
        return asdict(self)


def check_k(k: int, n_rows: int) -> int:
    """Give `k` back if an index of `n_rows` rows can answer it.

    Raises
    ------
    InputError
        If k isn't an integer in 1 … min(n_rows, `K_MAX`).
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise InputError(f"k is {k!r}; it must be a whole number", field="k")
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1", field="k")
    if k > n_rows:
        raise InputError(f"k is {k}, but the index holds {n_rows} rows; ask for at most that", field="k")
    if k > K_MAX:
        raise InputError(f"k is {k}; at most {K_MAX} results can be asked for", field="k")
    return int(k)


def check_candidates(candidates: int | None, k: int, n_rows: int) -> int:
    """Give the rows that a second query ranks for `k` results: as many as are asked for, or ten a result.

    Raises
    ------
    InputError
        If `candidates` isn't an integer in k … min(n_rows, `K_MAX`).
    """
    most = min(n_rows, K_MAX)
    if candidates is None:
        return min(RERANK_CANDIDATES_A_RESULT * k, most)
    whole = isinstance(candidates, int | np.integer) and not isinstance(candidates, bool)
    if not whole or not k <= candidates <= most:
        raise InputError(
            f"rerank_candidates is {candidates!r}; it must be a whole number between k = {k} and {most}",
            field="rerank_candidates",
        )
    return int(candidates)


def check_recall_target(recall_target: float) -> float:
    """Give `recall_target` back if it can be planned for: 0.80 … 0.99, or exactly 1 (read every page).

    Raises
    ------
    InputError
        If it lies outside, or is no number.
    """
    low, high = RECALL_TARGETS[0], RECALL_TARGETS[-1]
    if not (_is_number(recall_target) and (low <= recall_target <= high or recall_target == 1.0)):
        raise InputError(
            f"recall_target is {recall_target!r}; it must lie between {low} and {high}, or be 1 to read every page",
            field="recall_target",
        )
    return float(recall_target)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def check_vectors(
    vectors: npt.ArrayLike,
    spec: IndexSpec,
    *,
    what: str = "queries",
    field: str | None = None,
    suspect: Callable[[npt.NDArray[Any], str], bool] | None = None,
) -> npt.NDArray[Any]:
    """Give query vectors as a C-contiguous, writable (n, dim) array that the engine can trust.

    Integer queries are kept for integer indexes; everything else becomes float32. `suspect` may say faster than NumPy
    whether any row is invalid under a metric. `field` names the option at fault where `what` reads otherwise.

    Raises
    ------
    InputError
        On a wrong shape, dimension or type, on NaN or infinity, and on a zero vector under cosine; the first
        bad row is named.
    """
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise InputError(f"{what} are not a matrix of numbers: {error}", field=field or what) from None
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2:
        raise InputError(f"{what} have {array.ndim} axes; give one vector or a matrix", field=field or what)
    if array.shape[1] != spec.dim:
        raise InputError(f"{what} have dimension {array.shape[1]}, but the index has {spec.dim}", field=field or what)
    if array.dtype.kind not in "uif":
        raise InputError(f"{what} have type {array.dtype}; give numbers", field=field or what)
    if array.dtype.itemsize > _FLOAT32.itemsize:
        # What float32 can't hold becomes infinity, and is refused as such.
        with np.errstate(over="ignore"):
            array = array.astype(_FLOAT32)
    elif not spec.lossless or array.dtype != spec.stored_dtype:
        array = array.astype(_FLOAT32)
    if not array.flags.carray:
        # A reader's view of a message is copied: kernels are compiled for arrays that may be written to.
        array = array.copy()
    if suspect is None or suspect(array, spec.metric):
        bad = first_invalid_row(array, spec.metric)
        if bad is None:
            return array
        row, reason = bad
        raise InputError(f"row {row} of the {what} {reason}", field=field or what)
    return array


def judge_rows(rows: npt.NDArray[Any], metric: str) -> npt.NDArray[np.uint8]:
    """Judge which rows can be indexed or searched.

    Returns
    -------
    (n,) uint8
        0 where a row can, else its fault: a place in `ROW_FAULTS`.
    """
    faults = np.zeros(len(rows), np.uint8)
    if rows.dtype.kind == "f":
        finite = np.isfinite(rows).all(axis=1)
        faults[~finite] = 1
        largest = np.where(finite, np.abs(rows).max(axis=1, initial=0), 0)
        faults[largest.astype(np.float64) > VALUE_MAX] = 2
    if metric == "cosine":
        faults[~rows.any(axis=1)] = 3
    return faults


def first_invalid_row(rows: npt.NDArray[Any], metric: str) -> tuple[int, str] | None:
    """Find the first row that can't be indexed or searched, and say why.

    Returns
    -------
    (row, reason) or None
        `reason`, one of `ROW_FAULTS`, reads on after "row N ".
    """
    faults = judge_rows(rows, metric)
    faulty = np.flatnonzero(faults)
    return (int(faulty[0]), ROW_FAULTS[faults[faulty[0]]]) if len(faulty) else None


def check_collection_name(name: str) -> str:
    """Give `name` back if a collection may have it.

    Raises
    ------
    InputError
        If it isn't 1 to 63 of ``a-z 0-9 _ -``, beginning with a letter or a digit.
    """
    if not COLLECTION_NAME.fullmatch(name):
        raise InputError(
            f"{name[:70]!r} can't be the name of a collection; take up to 63 of a-z, 0-9, '_' and '-', as in "
            "photos=FOLDER",
            field="collection",
        )
    return name


def check_session(session: str | bytes, what: str = "session") -> bytes:
    """Give the name of a session, or of a tenant, as bytes.

    Raises
    ------
    InputError
        If it is longer than `SESSION_BYTES_MAX`, or neither text nor bytes.
    """
    if not isinstance(session, str | bytes):
        # Of a number n Python would make n bytes, the same for every n of that many.
        raise InputError(f"{what} is {session!r}; give text or bytes, and b'' for none", field=what)
    name = session.encode() if isinstance(session, str) else session
    if len(name) > SESSION_BYTES_MAX:
        raise InputError(
            f"{what} has {len(name)} bytes; at most {SESSION_BYTES_MAX} name one, such as a hash of a longer name",
            field=what,
        )
    return name


def check_request_id(request_id: str) -> str:
    """Give a request's id back if it may stand in answers and logs.

    Raises
    ------
    InputError
        If it is longer than `REQUEST_ID_CHARS_MAX`, or isn't printable ASCII.
    """
    if len(request_id) > REQUEST_ID_CHARS_MAX or not (request_id.isascii() and request_id.isprintable()):
        raise InputError(
            f"request_id must be at most {REQUEST_ID_CHARS_MAX} printable ASCII characters", field="request_id"
        )
    return request_id


def check_cosine(cosine: float | None) -> float | None:
    """Give back the cosine that a request allows, if it can be.

    Raises
    ------
    InputError
        If it lies outside `COSINE_LEAST` … 1, or is no number.
    """
    if cosine is not None and not (_is_number(cosine) and COSINE_LEAST <= cosine <= 1):
        raise InputError(
            f"approximate_cosine is {cosine!r}; it must lie between {COSINE_LEAST} and 1, or be left out",
            field="approximate_cosine",
        )
    return None if cosine is None else float(cosine)


def bytes_a_row(ram_bytes: float, tiers: Mapping[str, float], n_rows: int) -> float:
    """Give the RAM of an index that grows with its rows, in bytes a row: all but the codebooks, which have one size."""
    return (ram_bytes - tiers.get("codebooks", 0)) / max(n_rows, 1)
