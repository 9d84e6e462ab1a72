"""Arrays to messages and back, on the client's side; what a server says is checked before it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError, ServerError
from annserve.results import GRADES, SearchResult, SearchStats
from annserve.rpc import admin_pb2, search_pb2
from annserve.spec import bytes_a_row

_ROW_TYPES: dict[np.dtype[Any], search_pb2.RowType] = {
    np.dtype("<f4"): search_pb2.ROW_TYPE_FLOAT32,
    np.dtype("<f2"): search_pb2.ROW_TYPE_FLOAT16,
    np.dtype("u1"): search_pb2.ROW_TYPE_UINT8,
    np.dtype("i1"): search_pb2.ROW_TYPE_INT8,
}


def queries_to_send(queries: npt.ArrayLike, what: str = "queries") -> npt.NDArray[Any]:
    """Give queries as a C-contiguous little-endian matrix of a type that can be sent; others become float32.

    Raises
    ------
    InputError
        If they are neither one vector nor a matrix, or aren't numbers.
    """
    array = np.asarray(queries)
    if array.ndim == 1:
        array = array[np.newaxis]
    if array.ndim != 2:
        raise InputError(f"{what} have {array.ndim} axes; give one vector or a matrix", field=what)
    if array.dtype.kind not in "uif":
        raise InputError(f"{what} have type {array.dtype}; give numbers", field=what)
    dtype = array.dtype.newbyteorder("<")
    return np.ascontiguousarray(array, dtype if dtype in _ROW_TYPES else np.dtype("<f4"))


def matrix_of(queries: npt.NDArray[Any]) -> search_pb2.Matrix:
    """Give queries from `queries_to_send` as a message."""
    return search_pb2.Matrix(row_type=_ROW_TYPES[queries.dtype], dim=queries.shape[1], data=queries.tobytes())


def result_of(response: search_pb2.SearchResponse, n_queries: int) -> SearchResult:
    """Give an answer to `n_queries` queries as arrays of our own.

    Raises
    ------
    ServerError
        If the sizes in the answer contradict each other.
    """
    shape = (response.num_queries, response.k)
    expected = response.num_queries * response.k
    if (
        response.num_queries != n_queries
        or response.k < 1
        or (len(response.ids), len(response.distances)) != (expected * 8, expected * 4)
    ):
        raise ServerError(
            f"the server answered {n_queries} queries by {response.num_queries} × {response.k} neighbours in "
            f"{len(response.ids)} and {len(response.distances)} bytes; is it another version?"
        )
    stats = response.stats
    for name in (*SearchStats.COUNTS, "cache", "truncated"):
        if len(getattr(stats, name)) not in (0, n_queries):
            raise ServerError(f"the server tells {name} of {len(getattr(stats, name))} queries in place of {n_queries}")
    # An older server leaves out what it doesn't count.
    counts = {name: _count(getattr(stats, name), n_queries) for name in SearchStats.COUNTS}
    return SearchResult(
        # Copied, for a view of the message's bytes couldn't be written to.
        ids=np.frombuffer(response.ids, "<u8").astype(np.uint64).reshape(shape),
        distances=np.frombuffer(response.distances, "<f4").astype(np.float32).reshape(shape),
        stats=SearchStats(
            **counts,
            stage_seconds=dict(stats.stage_seconds),
            seconds=stats.seconds,
            grades=np.array([grade if 0 <= grade < len(GRADES) else 0 for grade in stats.cache], np.uint8),
        ),
        truncated=np.array(stats.truncated, np.bool_),
    )


def _count(values: Sequence[int], n_queries: int) -> npt.NDArray[np.int64]:
    return np.array(values if values else [0] * n_queries, dtype=np.int64)


def joined(results: Sequence[SearchResult]) -> SearchResult:
    """Give the answers to the parts of a batch as one."""
    if len(results) == 1:
        return results[0]
    stats = [result.stats for result in results]
    stages = {stage for one in stats for stage in one.stage_seconds}
    return SearchResult(
        ids=np.concatenate([result.ids for result in results]),
        distances=np.concatenate([result.distances for result in results]),
        stats=SearchStats(
            **{name: np.concatenate([getattr(one, name) for one in stats]) for name in SearchStats.COUNTS},
            stage_seconds={stage: sum(one.stage_seconds.get(stage, 0.0) for one in stats) for stage in stages},
            seconds=sum(one.seconds for one in stats),
            grades=np.concatenate([one.grades for one in stats]),
        ),
        # Where no query was cut short, nothing is said of any.
        truncated=np.concatenate([result.truncated if result.partial else _none_of(result) for result in results])
        if any(result.partial for result in results)
        else results[0].truncated,
    )


def _none_of(result: SearchResult) -> npt.NDArray[np.bool_]:
    return np.zeros(len(result.ids), np.bool_)


def info_of(index: admin_pb2.Index) -> dict[str, Any]:
    """Give the facts of an index under the names of ``Collection.info()``."""
    slots = index.pages * index.page_capacity
    tiers = {tier.name: tier.bytes for tier in index.ram_tiers}
    return {
        "collection": index.collection,
        "count": index.count,
        "dim": index.dim,
        "row_type": search_pb2.RowType.Name(index.row_type).removeprefix("ROW_TYPE_").lower(),
        "metric": admin_pb2.Metric.Name(index.metric).removeprefix("METRIC_").lower(),
        "page_bytes": index.page_bytes,
        "page_capacity": index.page_capacity,
        "heads": index.heads,
        "pages": index.pages,
        "page_fill": index.count / max(slots, 1),
        "ram_tiers": tiers,
        "ram_bytes": index.ram_bytes,
        "ram_bytes_per_vector": bytes_a_row(index.ram_bytes, tiers, index.count),
        "disk_bytes": index.disk_bytes,
        "build_seconds": index.build_seconds,
        "recall_targets": list(index.recall_targets),
        "format_version": index.format_version,
        "snapshot": index.snapshot,
        "io": index.io,
        "raw_rows": _raw_rows(index.raw_rows) if index.HasField("raw_rows") else None,
    }


def server_info_of(answer: admin_pb2.GetServerInfoResponse) -> dict[str, Any]:
    """Give what a server says of itself."""
    return {
        "version": answer.version,
        "start_time": answer.start_time.ToJsonString(),
        "workers": answer.workers,
        "writable": answer.writable,
        "limits": {field.name: getattr(answer.limits, field.name) for field in admin_pb2.Limits.DESCRIPTOR.fields},
    }


def _raw_rows(raw: admin_pb2.RawRows) -> dict[str, Any]:
    facts = {
        "dim": raw.dim,
        "row_type": search_pb2.RowType.Name(raw.row_type).removeprefix("ROW_TYPE_").lower(),
        "metric": admin_pb2.Metric.Name(raw.metric).removeprefix("METRIC_").lower(),
        "own": raw.own,
    }
    return {**facts, "settle_above": raw.settle_above} if raw.own else facts
