"""``annserve serve``: answer searches over gRPC until a signal says stop."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import click
import numpy as np

from annserve import collection
from annserve.cli.settings import collections_of, setting_options
from annserve.config import read_config
from annserve.errors import InputError
from annserve.guard.tls import certificates_of
from annserve.serve import Limits, Searchable, Server, stop_signals
from annserve.storage.atomic import write_atomically
from annserve.watch.logs import log_to_stderr

LOG = logging.getLogger("annserve.serve")


@click.command("serve")
@click.argument("indexes", nargs=-1, metavar="[NAME=]PATH...")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings as TOML; flags win.")
@setting_options
def command(indexes: tuple[str, ...], config_file: Path | None, **flags: Any) -> None:
    """Serve one or more indexes over gRPC. Each is a collection, named after its folder or as NAME says.

    Each option may also be a line of the file (listen = "127.0.0.1:50051"), or be in the environment
    (ANNSERVE_LISTEN); the file may have a table [collections].
    """
    config = read_config(config_file, {**flags, "collections": collections_of(indexes)})
    log_to_stderr(config.log_format)
    if not config.collections:
        raise InputError("there is nothing to serve; name an index, or list some under [collections]", field="indexes")
    limits = Limits(message_bytes=config.message_mib << 20, queries=config.queries_max, k=config.k_max)
    # The port comes first: that it is taken should be said before a large index is read.
    server = Server(
        config.listen,
        insecure=config.insecure,
        certificates=certificates_of(config),
        keys=config.keys,
        log_calls=config.log_calls,
        threads=config.threads,
        limits=limits,
        grace_seconds=config.grace_seconds,
    )
    with contextlib.ExitStack() as opened:
        collections: dict[str, Searchable] = {}
        for name, path in config.collections.items():
            index = collection.open(path, io=config.io, threads=config.threads, cache_bytes=config.cache)
            opened.enter_context(index)
            # The first search loads or compiles the kernels, for seconds: no caller's deadline should pay that.
            index.search(np.ones(index.spec.dim, np.float32), 1)
            collections[name] = index
            info = index.info()
            LOG.info("opened", extra={"collection": name, "ram_bytes": info["ram_bytes"], "io": info["io"]})
        # Signals are heeded before anyone is told that we serve, and the server stops before indexes close.
        with server, stop_signals() as stop_signal:
            server.start(collections)
            if config.port_file:
                write_atomically(config.port_file, f"{server.address.port}\n".encode())
            click.echo(f"serving {', '.join(collections)} on {server.address}")
            LOG.info("serving", extra={"address": server.address, "collections": ",".join(collections)})
            LOG.info("stopping", extra={"signal": stop_signal.get(), "grace_seconds": config.grace_seconds})
    LOG.info("stopped", extra={"address": server.address})
