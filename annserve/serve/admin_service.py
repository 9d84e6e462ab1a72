"""AdminService: what the server is and what it serves."""

from __future__ import annotations

from dataclasses import asdict

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from annserve.errors import InputError
from annserve.rpc import admin_pb2
from annserve.serve.catalog import Catalog
from annserve.serve.convert import index_of
from annserve.serve.forward import Forwarded, Manager
from annserve.serve.limits import Limits
from annserve.spec import DIM_MAX
from annserve.version import __version__

#: Indexes on one page of a list.
PAGE_SIZE_MAX = 100
#: Bytes of a session's name.
SESSION_BYTES_MAX = 128
#: Queries in one MeasureRecall: each is held against every row.
MEASURED_QUERIES_MAX = 1_000


class AdminService(Forwarded):
    """Tells what the server is and what it serves; what changes it is passed on.

    Parameters
    ----------
    catalog : Catalog
    limits : Limits
    manager : Manager
        Answers what is passed on.
    """

    def __init__(self, catalog: Catalog, limits: Limits, manager: Manager) -> None:
        super().__init__(manager)
        self._catalog = catalog
        self._limits = admin_pb2.Limits(
            **asdict(limits), dim=DIM_MAX, session_bytes=SESSION_BYTES_MAX, measured_queries=MEASURED_QUERIES_MAX
        )
        self._started = Timestamp()
        self._started.GetCurrentTime()

    def GetServerInfo(  # noqa: N802
        self, request: admin_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetServerInfoResponse:
        """Tell version, limits, and since when the server answers."""
        return admin_pb2.GetServerInfoResponse(version=__version__, start_time=self._started, limits=self._limits)

    def GetIndex(  # noqa: N802
        self, request: admin_pb2.GetIndexRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetIndexResponse:
        """Describe one index."""
        with self._catalog.lease(request.collection) as version:
            return admin_pb2.GetIndexResponse(index=index_of(version.name, version.info))

    def ListIndexes(  # noqa: N802
        self, request: admin_pb2.ListIndexesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListIndexesResponse:
        """Describe the indexes by name, a page at a time; a token is the last name of the page before."""
        if request.page_size < 0:
            raise InputError(f"page_size is {request.page_size}; it can't be negative", field="page_size")
        served = {standing.name: standing.version for standing in self._catalog.standings() if standing.version}
        names = list(served)
        if request.page_token and request.page_token not in names:
            raise InputError(
                f"page_token {request.page_token[:60]!r} wasn't given by this server; start without one",
                field="page_token",
            )
        left = [name for name in names if name > request.page_token]
        page = left[: min(request.page_size or PAGE_SIZE_MAX, PAGE_SIZE_MAX)]
        return admin_pb2.ListIndexesResponse(
            indexes=[index_of(name, served[name].info) for name in page],
            next_page_token=page[-1] if len(page) < len(left) else "",
        )
