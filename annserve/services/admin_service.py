"""AdminService: what the server is and what it serves. What changes it is passed on, but for a new version."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from annserve.audit import Finding
from annserve.catalog.catalog import Catalog, Standing
from annserve.catalog.publish import Publisher
from annserve.rpc import admin_pb2
from annserve.services.convert import index_of
from annserve.services.forward import Forwarded, Manager, NoManager
from annserve.services.limits import Limits
from annserve.services.pages_of_lists import page_of
from annserve.services.recall_service import MEASURED_QUERIES_MAX, estimate_of
from annserve.services.time_left import seconds_left
from annserve.spec import DIM_MAX, SESSION_BYTES_MAX
from annserve.version import __version__


@dataclass(frozen=True)
class Facts:
    """What a server tells of itself.

    Attributes
    ----------
    limits : Limits
    workers : int
        Processes that answer searches.
    """

    limits: Limits
    workers: int = 1


class AdminService(Forwarded):
    """Tells what the server is and what it serves; what changes it is passed on.

    Parameters
    ----------
    catalog : Catalog
    facts : Facts
    manager : Manager
        Answers what is passed on.
    found : callable
        Gives what is known of a collection's recall.
    publisher : Publisher
        Has new versions served.
    """

    def __init__(
        self,
        catalog: Catalog,
        facts: Facts,
        manager: Manager,
        found: Callable[[str], Iterable[Finding]],
        publisher: Publisher,
    ) -> None:
        super().__init__(manager)
        self._catalog, self._found, self._publisher = catalog, found, publisher
        started = Timestamp()
        started.GetCurrentTime()
        self._info = admin_pb2.GetServerInfoResponse(
            version=__version__,
            start_time=started,
            limits=admin_pb2.Limits(
                **asdict(facts.limits),
                dim=DIM_MAX,
                session_bytes=SESSION_BYTES_MAX,
                measured_queries=MEASURED_QUERIES_MAX,
            ),
            workers=facts.workers,
            writable=not isinstance(manager, NoManager),
        )

    def GetServerInfo(  # noqa: N802 - the names of the methods in the proto
        self, request: admin_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetServerInfoResponse:
        """Tell version, limits, and since when the server answers."""
        return self._info

    def GetIndex(  # noqa: N802
        self, request: admin_pb2.GetIndexRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetIndexResponse:
        """Describe one index."""
        with self._catalog.lease(request.collection) as version:
            return admin_pb2.GetIndexResponse(index=index_of(version.name, version.info))

    def ListIndexes(  # noqa: N802
        self, request: admin_pb2.ListIndexesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListIndexesResponse:
        """Describe the indexes by name, a page at a time."""
        served = {standing.name: standing.version for standing in self._catalog.standings() if standing.version}
        page, token = page_of(list(served), request.page_size, request.page_token)
        return admin_pb2.ListIndexesResponse(
            indexes=[index_of(name, served[name].info) for name in page], next_page_token=token
        )

    def GetCollection(  # noqa: N802
        self, request: admin_pb2.GetCollectionRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetCollectionResponse:
        """Tell the state of one collection."""
        standing = self._catalog.standing(request.collection)
        return admin_pb2.GetCollectionResponse(collection=self._collection_of(standing))

    def ListCollections(  # noqa: N802
        self, request: admin_pb2.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListCollectionsResponse:
        """Tell the state of all collections by name, a page at a time."""
        standings = {standing.name: standing for standing in self._catalog.standings()}
        page, token = page_of(list(standings), request.page_size, request.page_token)
        return admin_pb2.ListCollectionsResponse(
            collections=[self._collection_of(standings[name]) for name in page], next_page_token=token
        )

    def PublishVersion(  # noqa: N802
        self, request: admin_pb2.PublishVersionRequest, context: grpc.ServicerContext
    ) -> admin_pb2.PublishVersionResponse:
        """Serve the newest version of an index."""
        standing = self._publisher.publish(request.collection, request.snapshot, seconds_left(context))
        return admin_pb2.PublishVersionResponse(collection=self._collection_of(standing))

    def _collection_of(self, standing: Standing) -> admin_pb2.Collection:
        return admin_pb2.Collection(
            name=standing.name,
            state=f"COLLECTION_STATE_{standing.state.name}",
            reason=standing.reason,
            index=index_of(standing.name, standing.version.info) if standing.version else None,
            managed=self._publisher.is_managed(standing.name),
            audits=[estimate_of(0, one.recall_target, one.bounds) for one in self._found(standing.name)],
        )
