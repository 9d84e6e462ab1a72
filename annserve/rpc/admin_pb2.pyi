import datetime

from annserve.rpc import job_pb2 as _job_pb2
from annserve.rpc import search_pb2 as _search_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_L2: _ClassVar[Metric]
    METRIC_IP: _ClassVar[Metric]
    METRIC_COSINE: _ClassVar[Metric]

class CollectionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLLECTION_STATE_UNSPECIFIED: _ClassVar[CollectionState]
    COLLECTION_STATE_EMPTY: _ClassVar[CollectionState]
    COLLECTION_STATE_OPENING: _ClassVar[CollectionState]
    COLLECTION_STATE_READY: _ClassVar[CollectionState]
    COLLECTION_STATE_QUARANTINED: _ClassVar[CollectionState]
METRIC_UNSPECIFIED: Metric
METRIC_L2: Metric
METRIC_IP: Metric
METRIC_COSINE: Metric
COLLECTION_STATE_UNSPECIFIED: CollectionState
COLLECTION_STATE_EMPTY: CollectionState
COLLECTION_STATE_OPENING: CollectionState
COLLECTION_STATE_READY: CollectionState
COLLECTION_STATE_QUARANTINED: CollectionState

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "start_time", "limits", "workers", "writable")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    version: str
    start_time: _timestamp_pb2.Timestamp
    limits: Limits
    workers: int
    writable: bool
    def __init__(self, version: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., workers: _Optional[int] = ..., writable: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("message_bytes", "queries", "k", "dim", "session_bytes", "measured_queries")
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    SESSION_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_QUERIES_FIELD_NUMBER: _ClassVar[int]
    message_bytes: int
    queries: int
    k: int
    dim: int
    session_bytes: int
    measured_queries: int
    def __init__(self, message_bytes: _Optional[int] = ..., queries: _Optional[int] = ..., k: _Optional[int] = ..., dim: _Optional[int] = ..., session_bytes: _Optional[int] = ..., measured_queries: _Optional[int] = ...) -> None: ...

class GetIndexRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class GetIndexResponse(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: Index
    def __init__(self, index: _Optional[_Union[Index, _Mapping]] = ...) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes", "next_page_token")
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    next_page_token: str
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("collection", "dim", "row_type", "metric", "count", "pages", "page_bytes", "page_capacity", "heads", "ram_tiers", "ram_bytes", "disk_bytes", "build_seconds", "recall_targets", "format_version", "snapshot", "io", "raw_rows")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    ROW_TYPE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    PAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAGE_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    RAM_TIERS_FIELD_NUMBER: _ClassVar[int]
    RAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECALL_TARGETS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    IO_FIELD_NUMBER: _ClassVar[int]
    RAW_ROWS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    dim: int
    row_type: _search_pb2.RowType
    metric: Metric
    count: int
    pages: int
    page_bytes: int
    page_capacity: int
    heads: int
    ram_tiers: _containers.RepeatedCompositeFieldContainer[RamTier]
    ram_bytes: int
    disk_bytes: int
    build_seconds: float
    recall_targets: _containers.RepeatedScalarFieldContainer[float]
    format_version: int
    snapshot: int
    io: str
    raw_rows: RawRows
    def __init__(self, collection: _Optional[str] = ..., dim: _Optional[int] = ..., row_type: _Optional[_Union[_search_pb2.RowType, str]] = ..., metric: _Optional[_Union[Metric, str]] = ..., count: _Optional[int] = ..., pages: _Optional[int] = ..., page_bytes: _Optional[int] = ..., page_capacity: _Optional[int] = ..., heads: _Optional[int] = ..., ram_tiers: _Optional[_Iterable[_Union[RamTier, _Mapping]]] = ..., ram_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., build_seconds: _Optional[float] = ..., recall_targets: _Optional[_Iterable[float]] = ..., format_version: _Optional[int] = ..., snapshot: _Optional[int] = ..., io: _Optional[str] = ..., raw_rows: _Optional[_Union[RawRows, _Mapping]] = ...) -> None: ...

class RawRows(_message.Message):
    __slots__ = ("dim", "row_type", "metric", "own", "settle_above")
    DIM_FIELD_NUMBER: _ClassVar[int]
    ROW_TYPE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    SETTLE_ABOVE_FIELD_NUMBER: _ClassVar[int]
    dim: int
    row_type: _search_pb2.RowType
    metric: Metric
    own: bool
    settle_above: float
    def __init__(self, dim: _Optional[int] = ..., row_type: _Optional[_Union[_search_pb2.RowType, str]] = ..., metric: _Optional[_Union[Metric, str]] = ..., own: bool = ..., settle_above: _Optional[float] = ...) -> None: ...

class RamTier(_message.Message):
    __slots__ = ("name", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    bytes: int
    def __init__(self, name: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Collection(_message.Message):
    __slots__ = ("name", "state", "reason", "index", "managed", "audits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MANAGED_FIELD_NUMBER: _ClassVar[int]
    AUDITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: CollectionState
    reason: str
    index: Index
    managed: bool
    audits: _containers.RepeatedCompositeFieldContainer[_search_pb2.RecallEstimate]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[CollectionState, str]] = ..., reason: _Optional[str] = ..., index: _Optional[_Union[Index, _Mapping]] = ..., managed: bool = ..., audits: _Optional[_Iterable[_Union[_search_pb2.RecallEstimate, _Mapping]]] = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class CreateCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class GetCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections", "next_page_token")
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    next_page_token: str
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteCollectionRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class DeleteCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishVersionRequest(_message.Message):
    __slots__ = ("collection", "snapshot")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    snapshot: int
    def __init__(self, collection: _Optional[str] = ..., snapshot: _Optional[int] = ...) -> None: ...

class PublishVersionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: Collection
    def __init__(self, collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...
