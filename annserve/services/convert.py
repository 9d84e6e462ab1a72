"""Messages to arrays and back, on the server's side: no loop over vectors, every size checked before use.

Queries become read-only views of the request's bytes; results leave as columns of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.results import SearchResult, SearchStats
from annserve.rpc import admin_pb2, search_pb2
from annserve.spec import DIM_MAX
from annserve.watch.calls import current_request_id

#: Facts of an index that have the same name and type in ``Collection.info()`` and in the message.
PLAIN_FACTS = (
    "dim",
    "count",
    "pages",
    "page_bytes",
    "page_capacity",
    "heads",
    "ram_bytes",
    "disk_bytes",
    "build_seconds",
    "recall_targets",
    "format_version",
    "snapshot",
    "io",
)

#: Bytes of an answer: 12 for each id and distance, and at most 10 for each count of a query.
NEIGHBOR_BYTES = 12
COUNTS_BYTES = 10 * len(SearchStats.COUNTS)

_ROW_TYPES: dict[int, np.dtype[Any]] = {
    search_pb2.ROW_TYPE_FLOAT32: np.dtype("<f4"),
    search_pb2.ROW_TYPE_FLOAT16: np.dtype("<f2"),
    search_pb2.ROW_TYPE_UINT8: np.dtype("u1"),
    search_pb2.ROW_TYPE_INT8: np.dtype("i1"),
}


def queries_of(request: search_pb2.SearchRequest | search_pb2.MeasureRecallRequest) -> npt.NDArray[Any]:
    """Give a request's queries as an (n, dim) array of the type that was sent, read-only.

    Raises
    ------
    InputError
        If there are none, the type is unknown, the dimension impossible, or the bytes aren't whole rows.
    """
    form = request.WhichOneof("queries")
    if form == "matrix":
        return _matrix(request.matrix, form)
    if form == "vector":
        return _vector(request.vector, form)
    raise InputError("the request holds no queries; give a matrix or a vector", field="queries")


def rerank_queries_of(request: search_pb2.SearchRequest) -> npt.NDArray[Any] | None:
    """Give a request's queries by the other encoder, None if there are none; errors as `queries_of`."""
    form = request.WhichOneof("rerank_queries")
    if form == "rerank_matrix":
        return _matrix(request.rerank_matrix, form)
    if form == "rerank_vector":
        return _vector(request.rerank_vector, form)
    return None


def _vector(vector: search_pb2.Vector, field: str) -> npt.NDArray[np.float32]:
    n_values = len(vector.values)
    # Before any is read: millions of them, one by one, would hold up everybody.
    if not 1 <= n_values <= DIM_MAX:
        raise InputError(f"the vector has {n_values} values; give 1 to {DIM_MAX}", field=f"{field}.values")
    return np.array(vector.values, dtype=np.float32).reshape(1, -1)


def _matrix(matrix: search_pb2.Matrix, field: str) -> npt.NDArray[Any]:
    dtype = _ROW_TYPES.get(matrix.row_type)
    if dtype is None:
        raise InputError(
            f"row_type {matrix.row_type} is unknown; use FLOAT32, FLOAT16, UINT8 or INT8",
            field=f"{field}.row_type",
        )
    if not 1 <= matrix.dim <= DIM_MAX:
        raise InputError(f"dim is {matrix.dim}; it must lie between 1 and {DIM_MAX}", field=f"{field}.dim")
    row_bytes = matrix.dim * dtype.itemsize
    if len(matrix.data) % row_bytes:
        raise InputError(
            f"data holds {len(matrix.data)} bytes, which isn't a multiple of the {row_bytes} bytes of a row "
            f"({matrix.dim} × {dtype.name})",
            field=f"{field}.data",
        )
    return np.frombuffer(matrix.data, dtype).reshape(-1, matrix.dim)


def answer_bytes(n_queries: int, k: int) -> int:
    """Give the bytes of the largest answer to `n_queries` queries of `k` neighbours."""
    return n_queries * (k * NEIGHBOR_BYTES + COUNTS_BYTES)


def response_of(request: search_pb2.SearchRequest, result: SearchResult, snapshot: int) -> search_pb2.SearchResponse:
    """Give the result of a request as a message; a query that people typed is answered in messages too."""
    n_queries, k = result.ids.shape
    stats = result.stats
    response = search_pb2.SearchResponse(
        ids=result.ids.astype("<u8", copy=False).tobytes(),
        distances=result.distances.astype("<f4", copy=False).tobytes(),
        num_queries=n_queries,
        k=k,
        request_id=request.request_id or current_request_id(),
        snapshot=snapshot,
        stats=search_pb2.SearchStats(
            **{name: getattr(stats, name).tolist() for name in SearchStats.COUNTS},
            stage_seconds=stats.stage_seconds,
            seconds=stats.seconds,
            cache=stats.grades.tolist(),
        ),
    )
    if result.partial:
        response.partial = True
        response.stats.truncated.extend(result.truncated.tolist())
    if request.WhichOneof("queries") == "vector":
        response.neighbors.extend(
            search_pb2.Neighbor(id=id_, distance=distance)
            for id_, distance in zip(result.ids[0].tolist(), result.distances[0].tolist(), strict=True)
        )
    return response


def index_of(collection: str, info: Mapping[str, Any]) -> admin_pb2.Index:
    """Give the facts of ``Collection.info()`` as a message."""
    tiers = [admin_pb2.RamTier(name=name, bytes=size) for name, size in info["ram_tiers"].items()]
    raw = info.get("raw_rows")
    return admin_pb2.Index(
        collection=collection,
        row_type=f"ROW_TYPE_{info['row_type'].upper()}",
        metric=f"METRIC_{info['metric'].upper()}",
        ram_tiers=tiers,
        raw_rows=_raw_rows_of(raw) if raw else None,
        **{name: info[name] for name in PLAIN_FACTS},
    )


def _raw_rows_of(raw: Mapping[str, Any]) -> admin_pb2.RawRows:
    return admin_pb2.RawRows(
        dim=raw["dim"],
        row_type=f"ROW_TYPE_{raw['row_type'].upper()}",
        metric=f"METRIC_{raw['metric'].upper()}",
        own=raw["own"],
        settle_above=raw.get("settle_above", 0.0),
    )
