"""The client of a server: one channel, numpy in and out, typed errors.

A large batch travels in several requests; the time-out covers them all. Only UNAVAILABLE is tried again, and
a few times only: searching changes nothing, so that a repetition is harmless.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy.typing as npt

from annserve.client.convert import info_of, joined, matrix_of, queries_to_send, result_of
from annserve.client.status import error_of
from annserve.errors import DeadlineError, InputError
from annserve.results import SearchResult
from annserve.rpc import admin_pb2, admin_pb2_grpc, search_pb2, search_pb2_grpc

#: Largest answer taken; the server's own default.
MESSAGE_BYTES_MAX = 64 << 20
#: One request: bytes of its queries, queries, and neighbours in its answer. Some hundred queries at once gain all
#: there is to gain; both ways stay below 1 MiB, the smallest limit that a server can be given.
REQUEST_BYTES = 1_000_000
REQUEST_QUERIES = 4_096
REQUEST_NEIGHBORS = 65_536

#: gRPC repeats calls by itself, given this: after about 0.1, 0.2, 0.4 and 0.8 s, within the time-out.
_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "annserve.v1.SearchService"}, {"service": "annserve.v1.AdminService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

Response = TypeVar("Response")


class Client:
    """A connection to a server; threads may share it.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` of the server.
    timeout : float
        Seconds that a call may take, its repetitions included.
    collection : str
        Which collection to ask; empty where the server serves only one.

    Raises
    ------
    ServerError
        From every method, if no server answers or it fails; what the server refuses arrives as the same error
        that the embedded door raises.
    DeadlineError
        From every method, if the time-out passes.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, collection: str = "") -> None:
        self.address = address
        self._timeout = timeout
        self._collection = collection
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                # A request must stay in memory to be sent again; beyond this size gRPC would give up on that.
                ("grpc.per_rpc_retry_buffer_size", 2 * REQUEST_BYTES),
                ("grpc.service_config", json.dumps(_RETRIES)),
                # By default a refused connection is tried again after a second, when our retries are spent.
                ("grpc.initial_reconnect_backoff_ms", 100),
                # A proxy for web pages, named in the environment, isn't meant for this.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)
        self._admin = admin_pb2_grpc.AdminServiceStub(self._channel)

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        recall_target: float | None = None,
        rerank_queries: npt.ArrayLike | None = None,
        rerank_candidates: int | None = None,
    ) -> SearchResult:
        """Find the `k` nearest rows of each query.

        Parameters
        ----------
        queries : (nq, dim) or (dim,) array
            float32, float16, uint8 and int8 travel as they are, other numbers as float32.
        k : int
            Neighbours wanted, 1 to 1,000.
        recall_target : float or None
            Share of the true neighbours wanted; None leaves it to the server.
        rerank_queries : (nq, raw dim) or (raw dim,) array, optional
            The same queries by the other encoder whose vectors the index keeps; they rank the candidates.
        rerank_candidates : int, optional
            How many, k to 1,000; None leaves it to the server.

        Returns
        -------
        SearchResult
            Its ``stats`` are the server's.

        Raises
        ------
        InputError
            If the queries, k, the recall target or what is to be ranked anew are wrong.
        """
        matrix = queries_to_send(queries)
        again = None if rerank_queries is None else queries_to_send(rerank_queries, "rerank_queries")
        if again is not None and len(again) != len(matrix):
            raise InputError(
                f"there are {len(again)} rerank_queries for {len(matrix)} queries; give one for each",
                field="rerank_queries",
            )
        deadline = time.monotonic() + self._timeout
        results = []
        for part in _parts(matrix, again, k):
            request = search_pb2.SearchRequest(
                collection=self._collection,
                matrix=matrix_of(matrix[part]),
                k=k,
                recall_target=recall_target,
                rerank_matrix=None if again is None else matrix_of(again[part]),
                rerank_candidates=rerank_candidates,
            )
            response = self._call(self._search.Search, request, deadline)
            results.append(result_of(response, len(matrix[part])))
        return joined(results)

    def info(self) -> dict[str, Any]:
        """Give the facts of the index under the names of ``Collection.info()``."""
        request = admin_pb2.GetIndexRequest(collection=self._collection)
        return info_of(self._call(self._admin.GetIndex, request).index)

    def server_info(self) -> dict[str, Any]:
        """Give the server's version, its start (UTC) and its limits."""
        answer = self._call(self._admin.GetServerInfo, admin_pb2.GetServerInfoRequest())
        limits = {name: getattr(answer.limits, name) for name in ("message_bytes", "queries", "k")}
        return {
            "version": answer.version,
            "start_time": answer.start_time.ToJsonString(),
            "limits": limits,
        }

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: Callable[..., Response], request: object, deadline: float | None = None) -> Response:
        remaining = self._timeout if deadline is None else deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineError(f"{self._timeout} s passed before the whole batch was answered; allow more time")
        try:
            return method(request, timeout=remaining)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _parts(queries: npt.NDArray[Any], again: npt.NDArray[Any] | None, k: int) -> Iterator[slice]:
    """Cut a batch into requests of bounded size with answers of bounded size; an empty batch is one part."""
    row_bytes = sum(matrix.shape[1] * matrix.itemsize for matrix in (queries, again) if matrix is not None)
    n_rows = min(REQUEST_BYTES // max(row_bytes, 1), REQUEST_NEIGHBORS // max(int(k), 1), REQUEST_QUERIES)
    n_rows = max(n_rows, 1)
    for begin in range(0, max(len(queries), 1), n_rows):
        yield slice(begin, begin + n_rows)
