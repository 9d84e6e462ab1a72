"""``annserve serve``: answer searches over gRPC until a signal says stop."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import click
import numpy as np

from annserve import collection
from annserve.errors import InputError
from annserve.serve import Limits, Searchable, Server, stop_signals
from annserve.serve.log import log_to_stderr
from annserve.storage.atomic import write_atomically

LOG = logging.getLogger("annserve.serve")


@click.command("serve")
@click.argument("indexes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INDEX...")
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="HOST:PORT; port 0 is any free one.")
@click.option("--insecure", is_flag=True, help="Allow an address that other machines reach, unencrypted.")
@click.option("--threads", type=click.IntRange(1), help="Searches that run at once.  [default: all cores]")
@click.option(
    "--message-mib",
    default=64,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Largest request and answer.",
)
@click.option("--io", default="auto", show_default=True, help="How pages are read: auto, uring, pread or mmap.")
@click.option(
    "--page-cache",
    default="0",
    help="RAM of each index for pages asked for often, as 256MiB.  [default: none]",
)
@click.option("--grace-seconds", default=30.0, show_default=True, help="Time to finish calls when stopped.")
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the port there once it answers.")
def command(
    indexes: tuple[Path, ...],
    listen: str,
    insecure: bool,
    threads: int | None,
    message_mib: int,
    io: str,
    page_cache: str,
    grace_seconds: float,
    port_file: Path | None,
) -> None:
    """Serve one or more indexes over gRPC. Each is a collection named after its folder."""
    log_to_stderr()
    limits = Limits(message_bytes=message_mib << 20)
    # The port comes first: that it is taken should be said before a large index is read.
    server = Server(listen, insecure=insecure, threads=threads, limits=limits, grace_seconds=grace_seconds)
    with contextlib.ExitStack() as opened:
        collections: dict[str, Searchable] = {}
        for path in indexes:
            name = path.resolve().name
            if name in collections:
                raise InputError(f"two indexes are named {name!r}; rename one folder", field="indexes")
            index = opened.enter_context(collection.open(path, io=io, threads=threads, page_cache=page_cache))
            # The first search loads or compiles the kernels, for seconds: no caller's deadline should pay that.
            index.search(np.ones(index.spec.dim, np.float32), 1)
            collections[name] = index
            info = index.info()
            LOG.info("opened", extra={"collection": name, "ram_bytes": info["ram_bytes"], "io": info["io"]})
        # Signals are heeded before anyone is told that we serve, and the server stops before indexes close.
        with server, stop_signals() as stop_signal:
            server.start(collections)
            if port_file:
                write_atomically(port_file, f"{server.address.port}\n".encode())
            click.echo(f"serving {', '.join(collections)} on {server.address}")
            LOG.info("serving", extra={"address": server.address, "collections": ",".join(collections)})
            LOG.info("stopping", extra={"signal": stop_signal.get(), "grace_seconds": grace_seconds})
    LOG.info("stopped", extra={"address": server.address})
