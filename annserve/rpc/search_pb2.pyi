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

class OnDeadline(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DEADLINE_UNSPECIFIED: _ClassVar[OnDeadline]
    ON_DEADLINE_ERROR: _ClassVar[OnDeadline]
    ON_DEADLINE_PARTIAL: _ClassVar[OnDeadline]

class CacheGrade(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_GRADE_UNSPECIFIED: _ClassVar[CacheGrade]
    CACHE_GRADE_MISS: _ClassVar[CacheGrade]
    CACHE_GRADE_REPEAT: _ClassVar[CacheGrade]
    CACHE_GRADE_CERTIFIED: _ClassVar[CacheGrade]
    CACHE_GRADE_DELTA: _ClassVar[CacheGrade]
    CACHE_GRADE_APPROXIMATE: _ClassVar[CacheGrade]
ROW_TYPE_UNSPECIFIED: RowType
ROW_TYPE_FLOAT32: RowType
ROW_TYPE_FLOAT16: RowType
ROW_TYPE_UINT8: RowType
ROW_TYPE_INT8: RowType
ON_DEADLINE_UNSPECIFIED: OnDeadline
ON_DEADLINE_ERROR: OnDeadline
ON_DEADLINE_PARTIAL: OnDeadline
CACHE_GRADE_UNSPECIFIED: CacheGrade
CACHE_GRADE_MISS: CacheGrade
CACHE_GRADE_REPEAT: CacheGrade
CACHE_GRADE_CERTIFIED: CacheGrade
CACHE_GRADE_DELTA: CacheGrade
CACHE_GRADE_APPROXIMATE: CacheGrade

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
    __slots__ = ("collection", "matrix", "vector", "k", "recall_target", "exact", "on_deadline", "session", "request_id", "rerank_matrix", "rerank_vector", "rerank_candidates", "bypass_cache", "approximate_cosine")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    ON_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RERANK_MATRIX_FIELD_NUMBER: _ClassVar[int]
    RERANK_VECTOR_FIELD_NUMBER: _ClassVar[int]
    RERANK_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    BYPASS_CACHE_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_COSINE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    matrix: Matrix
    vector: Vector
    k: int
    recall_target: float
    exact: bool
    on_deadline: OnDeadline
    session: bytes
    request_id: str
    rerank_matrix: Matrix
    rerank_vector: Vector
    rerank_candidates: int
    bypass_cache: bool
    approximate_cosine: float
    def __init__(self, collection: _Optional[str] = ..., matrix: _Optional[_Union[Matrix, _Mapping]] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., k: _Optional[int] = ..., recall_target: _Optional[float] = ..., exact: bool = ..., on_deadline: _Optional[_Union[OnDeadline, str]] = ..., session: _Optional[bytes] = ..., request_id: _Optional[str] = ..., rerank_matrix: _Optional[_Union[Matrix, _Mapping]] = ..., rerank_vector: _Optional[_Union[Vector, _Mapping]] = ..., rerank_candidates: _Optional[int] = ..., bypass_cache: bool = ..., approximate_cosine: _Optional[float] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("ids", "distances", "num_queries", "k", "stats", "neighbors", "partial", "request_id", "snapshot")
    IDS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    NUM_QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    ids: bytes
    distances: bytes
    num_queries: int
    k: int
    stats: SearchStats
    neighbors: _containers.RepeatedCompositeFieldContainer[Neighbor]
    partial: bool
    request_id: str
    snapshot: int
    def __init__(self, ids: _Optional[bytes] = ..., distances: _Optional[bytes] = ..., num_queries: _Optional[int] = ..., k: _Optional[int] = ..., stats: _Optional[_Union[SearchStats, _Mapping]] = ..., neighbors: _Optional[_Iterable[_Union[Neighbor, _Mapping]]] = ..., partial: bool = ..., request_id: _Optional[str] = ..., snapshot: _Optional[int] = ...) -> None: ...

class Neighbor(_message.Message):
    __slots__ = ("id", "distance")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    id: int
    distance: float
    def __init__(self, id: _Optional[int] = ..., distance: _Optional[float] = ...) -> None: ...

class SearchStats(_message.Message):
    __slots__ = ("pages_read", "reads", "bytes_read", "heads_visited", "rows_scored", "codes_scanned", "pages_cached", "rows_reranked", "stage_seconds", "seconds", "cache", "truncated")
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
    CACHE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
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
    cache: _containers.RepeatedScalarFieldContainer[CacheGrade]
    truncated: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, pages_read: _Optional[_Iterable[int]] = ..., reads: _Optional[_Iterable[int]] = ..., bytes_read: _Optional[_Iterable[int]] = ..., heads_visited: _Optional[_Iterable[int]] = ..., rows_scored: _Optional[_Iterable[int]] = ..., codes_scanned: _Optional[_Iterable[int]] = ..., pages_cached: _Optional[_Iterable[int]] = ..., rows_reranked: _Optional[_Iterable[int]] = ..., stage_seconds: _Optional[_Mapping[str, float]] = ..., seconds: _Optional[float] = ..., cache: _Optional[_Iterable[_Union[CacheGrade, str]]] = ..., truncated: _Optional[_Iterable[bool]] = ...) -> None: ...

class SearchStreamRequest(_message.Message):
    __slots__ = ("sequence", "search")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    search: SearchRequest
    def __init__(self, sequence: _Optional[int] = ..., search: _Optional[_Union[SearchRequest, _Mapping]] = ...) -> None: ...

class SearchStreamResponse(_message.Message):
    __slots__ = ("sequence", "found", "refused")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    found: SearchResponse
    refused: Refusal
    def __init__(self, sequence: _Optional[int] = ..., found: _Optional[_Union[SearchResponse, _Mapping]] = ..., refused: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message", "reason", "field", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    field: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class MeasureRecallRequest(_message.Message):
    __slots__ = ("collection", "matrix", "vector", "live", "k", "recall_target", "confidence")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    matrix: Matrix
    vector: Vector
    live: int
    k: int
    recall_target: float
    confidence: float
    def __init__(self, collection: _Optional[str] = ..., matrix: _Optional[_Union[Matrix, _Mapping]] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., live: _Optional[int] = ..., k: _Optional[int] = ..., recall_target: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...

class MeasureRecallResponse(_message.Message):
    __slots__ = ("recall", "query_recalls", "pages_mean", "snapshot")
    RECALL_FIELD_NUMBER: _ClassVar[int]
    QUERY_RECALLS_FIELD_NUMBER: _ClassVar[int]
    PAGES_MEAN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    recall: RecallEstimate
    query_recalls: _containers.RepeatedScalarFieldContainer[float]
    pages_mean: float
    snapshot: int
    def __init__(self, recall: _Optional[_Union[RecallEstimate, _Mapping]] = ..., query_recalls: _Optional[_Iterable[float]] = ..., pages_mean: _Optional[float] = ..., snapshot: _Optional[int] = ...) -> None: ...

class RecallEstimate(_message.Message):
    __slots__ = ("k", "recall_target", "queries", "recall", "recall_low", "recall_high", "confidence")
    K_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGET_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    RECALL_LOW_FIELD_NUMBER: _ClassVar[int]
    RECALL_HIGH_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    k: int
    recall_target: float
    queries: int
    recall: float
    recall_low: float
    recall_high: float
    confidence: float
    def __init__(self, k: _Optional[int] = ..., recall_target: _Optional[float] = ..., queries: _Optional[int] = ..., recall: _Optional[float] = ..., recall_low: _Optional[float] = ..., recall_high: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...
