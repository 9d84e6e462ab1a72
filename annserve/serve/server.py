"""The gRPC server of one process: binds, starts, and stops without losing a call.

Invariants: a port that another server holds is an error, never shared by chance; health and admin calls have threads of
their own, so that searches can't starve them; a server that stops first says that it isn't serving, then takes no new
call, then finishes those that it has. A call of a search has a thread that decodes, waits and encodes, which costs its
stack alone; the threads of the scheduler search.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, TracebackType

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from annserve.audit import Auditor, Finding
from annserve.catalog.auditing import auditor_of
from annserve.catalog.catalog import Catalog, Standing
from annserve.catalog.publish import Publisher
from annserve.catalog.schedule import Scheduler
from annserve.door.pool import CallPool
from annserve.door.room import ROOM_BYTES, Room
from annserve.door.status import Door
from annserve.errors import ConflictError
from annserve.guard.admit import ROLE_OF, Admission
from annserve.guard.listen import Address, check_free, parse_address
from annserve.guard.tls import Certificates, is_guarded
from annserve.rpc import admin_pb2, admin_pb2_grpc, search_pb2, search_pb2_grpc
from annserve.services.admin_service import AdminService, Facts
from annserve.services.forward import Manager, NoManager
from annserve.services.health import Health
from annserve.services.limits import Limits
from annserve.services.manage_service import WATCHERS_MAX
from annserve.services.search_service import SearchService
from annserve.watch.metrics import declare_methods

SEARCH = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name

#: Threads for admin calls.
SIDE_THREADS = 64
#: Threads for probes of health, which anybody may begin and leave half said, and for those who watch it.
HEALTH_THREADS, WATCH_THREADS = 32, 256
#: Calls running and waiting; gRPC itself refuses further ones.
CALLS_MAX = 2_048
#: Calls that gRPC holds before this process has seen them; beyond it begins to end some, without asking anyone here.
PENDING_MAX = 64
#: Connections of one process, and of its open files the share that they may take at most.
CONNECTIONS_MAX, _FILES_SHARE = 8_192, 0.5
#: Bytes of a call's metadata; a key and a request id take some 200.
METADATA_BYTES_MAX = 16 << 10
#: Threads for what may take minutes: jobs that are watched, recall that is measured.
LONG_THREADS = WATCHERS_MAX + 4
#: Threads for calls of which nothing is known yet: those that are read, refused or answered.
SPARE_THREADS = 16
#: Streams of searches and of reflection that are answered at once; each has a thread for as long as it lasts.
STREAMS_MAX = 64
#: Pings that keep an idle connection open are welcome at this interval; gRPC's own default is five minutes.
PING_INTERVAL_MS = 10_000


class Server:
    """A server on one address. It holds the port from construction, and answers from ``start``.

    Parameters
    ----------
    listen : str
        ``HOST:PORT``; port 0 takes a free one.
    insecure : bool
        Allow an address that other machines reach, though traffic isn't encrypted or callers needn't show who they are.
    certificates : Certificates or None
        Encrypt with them.
    keys : Path or None
        Admit only callers with a key of this file.
    keyless_role : str
        What callers may do where no keys are asked for.
    log_calls : str
        Calls that are logged: ``changes``, ``failed`` ones too, or ``all``.
    threads : int or None
        Searches that run at once; None takes one per CPU of this process.
    waiting_max : int
        Calls of one collection that may wait for their turn.
    share_port : bool
        Whether other processes of this server listen there too.
    limits : Limits
        What one request may ask for.
    grace_seconds : float
        How long `stop` waits for calls in flight.

    Raises
    ------
    InputError
        If the address is none, isn't this machine's, or is open to others without `insecure` or certificates and keys;
        or if a file of these isn't what it should be.
    ConflictError
        If another process listens there.
    """

    def __init__(
        self,
        listen: str = "127.0.0.1:50051",
        *,
        insecure: bool = False,
        certificates: Certificates | None = None,
        keys: Path | None = None,
        keyless_role: str = "admin",
        log_calls: str = "changes",
        threads: int | None = None,
        waiting_max: int = 128,
        share_port: bool = False,
        limits: Limits | None = None,
        grace_seconds: float = 30.0,
    ) -> None:
        wanted = parse_address(listen, guarded=insecure or is_guarded(certificates, keys))
        admission = Admission(keys, keyless_role)
        credentials = certificates.server_credentials() if certificates else None
        if not share_port:
            check_free(wanted)
        self._limits = limits or Limits()
        self._grace_seconds = grace_seconds
        n_threads = threads or len(os.sched_getaffinity(0))
        self.scheduler = Scheduler(n_threads, waiting_max)
        self._search_pool = CallPool(n_threads + waiting_max + SPARE_THREADS, "call")
        self._stream_pool = CallPool(STREAMS_MAX, "stream")
        self._side_pool = CallPool(SIDE_THREADS, "side")
        self._long_pool = CallPool(LONG_THREADS, "long")
        self._health_pool = CallPool(HEALTH_THREADS, "health")
        self._watch_pool = CallPool(WATCH_THREADS, "watch")
        pools = {
            f"/{SEARCH}/Search": self._search_pool,
            f"/{SEARCH}/SearchStream": self._stream_pool,
            f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": self._stream_pool,
            **dict.fromkeys((f"/{SEARCH}/MeasureRecall", f"/{ADMIN}/WatchJob"), self._long_pool),
            f"/{ADMIN}/PublishVersion": self._long_pool,
            f"/{health.SERVICE_NAME}/Check": self._health_pool,
            f"/{health.SERVICE_NAME}/Watch": self._watch_pool,
        }
        self._pools = {self._side_pool, *pools.values()}
        self._health = Health(SEARCH, ADMIN)
        self._server = grpc.server(
            self._side_pool,
            interceptors=[Door(pools, admission, log_calls, Room(max(ROOM_BYTES, 4 * self._limits.message_bytes)))],
            options=[
                ("grpc.max_receive_message_length", self._limits.message_bytes),
                ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
                ("grpc.max_concurrent_streams", CALLS_MAX),
                ("grpc.server.max_pending_requests", PENDING_MAX),
                ("grpc.server.max_pending_requests_hard_limit", 4 * PENDING_MAX),
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_allowed_incoming_connections", _connections_max()),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        try:
            port = (
                self._server.add_secure_port(str(wanted), credentials)
                if credentials
                else self._server.add_insecure_port(str(wanted))
            )
        except RuntimeError as error:  # taken since it was tried
            raise ConflictError(f"can't listen on {wanted}: {error}; choose another port") from None
        self.address = Address(wanted.host, port)

    def start(
        self,
        catalog: Catalog,
        publisher: Publisher | None = None,
        manager: Manager | None = None,
        auditor: Auditor | None = None,
        *,
        found: Callable[[str], Sequence[Finding]] | None = None,
        workers: int = 1,
    ) -> None:
        """Answer calls for the collections of a catalog, which may change.

        Parameters
        ----------
        catalog : Catalog
        publisher : Publisher, optional
            Has new versions served; by default what the catalog has is the newest.
        manager : Manager, optional
            Answers what changes the server; by default it is refused.
        auditor : Auditor, optional
            Of these collections; by default nothing is audited.
        found : callable, optional
            Gives what is known of a collection's recall; by default what this auditor found.
        workers : int
            Processes that this server has, to be told.
        """
        auditor = auditor or auditor_of(catalog, self.scheduler)
        search = SearchService(catalog, self.scheduler, self._limits, auditor)
        search_pb2_grpc.add_SearchServiceServicer_to_server(search, self._server)
        admin = AdminService(
            catalog,
            Facts(self._limits, workers),
            manager or NoManager(),
            found or auditor.found,
            publisher or Publisher(catalog, look=lambda: None, named=catalog.names()),
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (SEARCH, ADMIN, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)
        catalog.listen(self._health.note)
        catalog.listen(self._note)
        declare_methods(tuple(ROLE_OF))
        self._server.start()

    def _note(self, standing: Standing) -> None:
        if standing.gone:
            self.scheduler.forget(standing.name)

    def stop(self) -> None:
        """Say that we aren't serving, take no new call, and wait up to the grace for those in flight."""
        self._health.end()
        self._server.stop(self._grace_seconds).wait()
        self.scheduler.close()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _connections_max() -> int:
    """Give how many connections to take, after the system was asked for all the open files that it allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a filter of system calls may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(CONNECTIONS_MAX, int(_FILES_SHARE * allowed)) if allowed > 0 else CONNECTIONS_MAX


@contextlib.contextmanager
def stop_signals(*, patient: bool = False) -> Iterator[SimpleQueue[str]]:
    """Give a queue that gets the name of SIGTERM or SIGINT when one arrives; a second one ends the process.

    With `patient` it doesn't: whoever sends signals to all processes of a server means its supervisor.

    For the main thread only, as everything about signals. A queue and not an event, because a handler may run
    while its own thread holds the event's lock; ``SimpleQueue.put`` is made for that.
    """
    arrived: SimpleQueue[str] = SimpleQueue()

    def note(number: int, frame: FrameType | None) -> None:
        if not patient:
            signal.signal(number, signal.SIG_DFL)
        arrived.put(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
