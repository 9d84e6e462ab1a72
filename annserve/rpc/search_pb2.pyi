from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RowType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROW_TYPE_UNSPECIFIED: _ClassVar[RowType]
    ROW_TYPE_FLOAT32: _ClassVar[RowType]
    ROW_TYPE_FLOAT16: _ClassVar[RowType]
    ROW_TYPE_UINT8: _ClassVar[RowType]
    ROW_TYPE_INT8: _ClassVar[RowType]
ROW_TYPE_UNSPECIFIED: RowType
ROW_TYPE_FLOAT32: RowType
ROW_TYPE_FLOAT16: RowType
ROW_TYPE_UINT8: RowType
ROW_TYPE_INT8: RowType

class Matrix(_message.Message):
    __slots__ = ("row_type", "dim", "data")
    ROW_TYPE_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    row_type: RowType
    dim: int
    data: bytes
    def __init__(self, row_type: _Optional[_Union[RowType, str]] = ..., dim: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("collection", "matrix", "vector", "k", "recall_target", "rerank_matrix", "rerank_vector", "rerank_candidates")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    RERANK_MATRIX_FIELD_NUMBER: _ClassVar[int]
    RERANK_VECTOR_FIELD_NUMBER: _ClassVar[int]
    RERANK_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    collection: str
    matrix: Matrix
    vector: Vector
    k: int
    recall_target: float
    rerank_matrix: Matrix
    rerank_vector: Vector
    rerank_candidates: int
    def __init__(self, collection: _Optional[str] = ..., matrix: _Optional[_Union[Matrix, _Mapping]] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., k: _Optional[int] = ..., recall_target: _Optional[float] = ..., rerank_matrix: _Optional[_Union[Matrix, _Mapping]] = ..., rerank_vector: _Optional[_Union[Vector, _Mapping]] = ..., rerank_candidates: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("ids", "distances", "num_queries", "k", "stats", "neighbors")
    IDS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    NUM_QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    distances: bytes
    num_queries: int
    k: int
    stats: SearchStats
    neighbors: _containers.RepeatedCompositeFieldContainer[Neighbor]
    def __init__(self, ids: _Optional[bytes] = ..., distances: _Optional[bytes] = ..., num_queries: _Optional[int] = ..., k: _Optional[int] = ..., stats: _Optional[_Union[SearchStats, _Mapping]] = ..., neighbors: _Optional[_Iterable[_Union[Neighbor, _Mapping]]] = ...) -> None: ...

class Neighbor(_message.Message):
    __slots__ = ("id", "distance")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    id: int
    distance: float
    def __init__(self, id: _Optional[int] = ..., distance: _Optional[float] = ...) -> None: ...

class SearchStats(_message.Message):
    __slots__ = ("pages_read", "reads", "bytes_read", "heads_visited", "rows_scored", "codes_scanned", "pages_cached", "rows_reranked", "stage_seconds", "seconds")
    class StageSecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PAGES_READ_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    HEADS_VISITED_FIELD_NUMBER: _ClassVar[int]
    ROWS_SCORED_FIELD_NUMBER: _ClassVar[int]
    CODES_SCANNED_FIELD_NUMBER: _ClassVar[int]
    PAGES_CACHED_FIELD_NUMBER: _ClassVar[int]
    ROWS_RERANKED_FIELD_NUMBER: _ClassVar[int]
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    pages_read: _containers.RepeatedScalarFieldContainer[int]
    reads: _containers.RepeatedScalarFieldContainer[int]
    bytes_read: _containers.RepeatedScalarFieldContainer[int]
    heads_visited: _containers.RepeatedScalarFieldContainer[int]
    rows_scored: _containers.RepeatedScalarFieldContainer[int]
    codes_scanned: _containers.RepeatedScalarFieldContainer[int]
    pages_cached: _containers.RepeatedScalarFieldContainer[int]
    rows_reranked: _containers.RepeatedScalarFieldContainer[int]
    stage_seconds: _containers.ScalarMap[str, float]
    seconds: float
    def __init__(self, pages_read: _Optional[_Iterable[int]] = ..., reads: _Optional[_Iterable[int]] = ..., bytes_read: _Optional[_Iterable[int]] = ..., heads_visited: _Optional[_Iterable[int]] = ..., rows_scored: _Optional[_Iterable[int]] = ..., codes_scanned: _Optional[_Iterable[int]] = ..., pages_cached: _Optional[_Iterable[int]] = ..., rows_reranked: _Optional[_Iterable[int]] = ..., stage_seconds: _Optional[_Mapping[str, float]] = ..., seconds: _Optional[float] = ...) -> None: ...
