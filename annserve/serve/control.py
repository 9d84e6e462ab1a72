"""The socket on which the supervisor answers what workers pass on: what changes the server, and all about jobs.

It lies in the run folder, which nobody else can enter; callers were judged by the worker that they asked.
"""

from __future__ import annotations

from types import TracebackType

import grpc

from annserve.config import ServeConfig
from annserve.door.pool import CallPool
from annserve.door.status import Door
from annserve.jobs import DataFolder, Jobs
from annserve.rpc import admin_pb2_grpc
from annserve.serve.run_folder import RunFolder
from annserve.services.manage_service import WATCHERS_MAX, ManageService

#: Threads beside those of watchers.
_THREADS = 8
#: Neither a proxy nor a limit of messages stands between processes of one server.
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]


class Control:
    """Answers on the socket until the context ends; jobs that run then are interrupted.

    Parameters
    ----------
    config : ServeConfig
        With a data folder.
    run : RunFolder

    Raises
    ------
    ConflictError
        If another server uses the data folder.
    OutputError
        If it can't be written.
    """

    def __init__(self, config: ServeConfig, run: RunFolder) -> None:
        assert config.data is not None, "a server without data has nothing to control"
        folder = DataFolder(config.data)
        self.jobs = Jobs(folder)
        pool = CallPool(WATCHERS_MAX + _THREADS, "control")
        # What is passed on was logged by the worker that it was asked of.
        self._server = grpc.server(pool, interceptors=[Door({}, log_calls="none")], options=_OPTIONS)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            ManageService(folder, self.jobs, config.collections), self._server
        )
        self._server.add_insecure_port(f"unix:{run.control}")
        self._server.start()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.jobs.close()
        self._server.stop(0).wait()


def control_channel(run: RunFolder) -> grpc.Channel:
    """Give a channel to the supervisor's socket."""
    return grpc.insecure_channel(f"unix:{run.control}", _OPTIONS)
