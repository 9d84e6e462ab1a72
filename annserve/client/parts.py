"""A search as requests of bounded size: what a caller asks, checked and cut, and the answers put together again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from annserve.client.convert import joined, matrix_of, queries_to_send
from annserve.errors import InputError
from annserve.results import SearchResult
from annserve.rpc import search_pb2
from annserve.spec import check_session

#: One request: bytes of its queries, queries, and neighbours in its answer. Some hundred queries at once gain all
#: there is to gain; both ways stay below 1 MiB, the smallest limit that a server can be given.
REQUEST_BYTES = 1_000_000
REQUEST_QUERIES = 4_096
REQUEST_NEIGHBORS = 65_536
#: Requests of one search under way at once.
REQUESTS_UNDER_WAY = 4

_ON_DEADLINE = {"error": search_pb2.ON_DEADLINE_ERROR, "partial": search_pb2.ON_DEADLINE_PARTIAL}


@dataclass(frozen=True)
class Options:
    """What a search asks for besides its queries; names and meanings are those of ``SearchRequest``."""

    k: int = 10
    recall_target: float | None = None
    exact: bool = False
    rerank_candidates: int | None = None
    on_deadline: str = "error"
    session: bytes | str = b""
    bypass_cache: bool = False
    approximate_cosine: float | None = None
    request_id: str = ""

    def request(
        self,
        collection: str,
        matrix: search_pb2.Matrix | None = None,
        rerank_matrix: search_pb2.Matrix | None = None,
    ) -> search_pb2.SearchRequest:
        """Give them as a request.

        Raises
        ------
        InputError
            If one of them can't be sent.
        """
        if self.on_deadline not in _ON_DEADLINE:
            raise InputError(
                f"on_deadline is {self.on_deadline!r}; it can be 'error' or 'partial'", field="on_deadline"
            )
        session = check_session(self.session)
        try:
            return search_pb2.SearchRequest(
                collection=collection,
                k=self.k,
                recall_target=self.recall_target,
                exact=self.exact,
                rerank_candidates=self.rerank_candidates,
                on_deadline=_ON_DEADLINE[self.on_deadline],
                session=session,
                bypass_cache=self.bypass_cache,
                approximate_cosine=self.approximate_cosine,
                request_id=self.request_id,
                matrix=matrix,
                rerank_matrix=rerank_matrix,
            )
        except (TypeError, ValueError, UnicodeError) as error:
            raise InputError(f"this can't be asked: {error}") from None


class Requests:
    """The requests of one batch, each made when it is asked for.

    Parameters
    ----------
    queries : (nq, dim) or (dim,) array
    again : (nq, raw dim) or (raw dim,) array, optional
        Rerank queries.
    options : Options
    collection : str

    Raises
    ------
    InputError
        If queries or options can't be sent.
    """

    def __init__(
        self, queries: npt.ArrayLike, again: npt.ArrayLike | None, options: Options, collection: str = ""
    ) -> None:
        self._matrix = queries_to_send(queries)
        self._again = None if again is None else queries_to_send(again, "rerank_queries")
        if self._again is not None and len(self._again) != len(self._matrix):
            raise InputError(
                f"there are {len(self._again)} rerank_queries for {len(self._matrix)} queries; give one for each",
                field="rerank_queries",
            )
        options.request(collection)
        self._options, self._collection = options, collection
        self._parts = list(parts(self._matrix, self._again, options.k))

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[tuple[search_pb2.SearchRequest, int]]:
        """Give each with its number of queries; a batch without any has one."""
        for part in self._parts:
            matrix = self._matrix[part]
            again = None if self._again is None else matrix_of(self._again[part])
            yield self._options.request(self._collection, matrix_of(matrix), again), len(matrix)


class Batches:
    """The requests of many batches, one batch after another, and their answers put together again.

    Parameters
    ----------
    batches : iterable of (nq, dim) arrays
        Each taken when its turn comes.
    options : Options
    collection : str
    """

    def __init__(self, batches: Iterable[npt.ArrayLike], options: Options, collection: str = "") -> None:
        self._batches, self._options, self._collection = batches, options, collection
        self._sizes: deque[int] = deque()
        self._found: list[SearchResult] = []

    def __iter__(self) -> Iterator[tuple[search_pb2.SearchRequest, int]]:
        """Give each with its number of queries."""
        for batch in self._batches:
            requests = Requests(batch, None, self._options, self._collection)
            self._sizes.append(len(requests))
            yield from requests

    def add(self, result: SearchResult) -> SearchResult | None:
        """Take the answer to the next request; give that of a batch with its last one."""
        self._found.append(result)
        if len(self._found) < self._sizes[0]:
            return None
        self._sizes.popleft()
        found, self._found = self._found, []
        return joined(found)


def parts(queries: npt.NDArray[Any], again: npt.NDArray[Any] | None, k: int) -> Iterator[slice]:
    """Cut a batch so that requests and answers are of bounded size; an empty batch is one part."""
    row_bytes = sum(matrix.shape[1] * matrix.itemsize for matrix in (queries, again) if matrix is not None)
    n_rows = min(REQUEST_BYTES // max(row_bytes, 1), REQUEST_NEIGHBORS // max(int(k), 1), REQUEST_QUERIES)
    n_rows = max(n_rows, 1)
    for begin in range(0, max(len(queries), 1), n_rows):
        yield slice(begin, begin + n_rows)
