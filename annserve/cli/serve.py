"""``annserve serve``: answer searches over gRPC until a signal says stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from annserve.cli.settings import collections_of, setting_options
from annserve.config import read_config
from annserve.serve import Supervisor, stop_signals
from annserve.storage.atomic import write_atomically
from annserve.watch.logs import log_to_stderr
from annserve.watch.ready import READY, STOPPING, notify_init

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
    if not config.collections and not config.data:
        raise click.UsageError("nothing to serve; name an index, list some under [collections], or give --data")
    # The port comes first: that it is taken should be said before a large index is read. Signals are heeded before
    # anyone is told that we serve.
    with stop_signals() as stop_signal, Supervisor(config) as server:
        server.start()
        if config.port_file:
            write_atomically(config.port_file, f"{server.address.port}\n".encode())
        names = server.collections()
        click.echo(f"serving {', '.join(names)} on {server.address}")
        if server.status_url:
            click.echo(f"status at {server.status_url}")
        LOG.info("serving", extra={"address": server.address, "collections": ",".join(names)})
        notify_init(READY)
        LOG.info("stopping", extra={"signal": server.wait(stop_signal), "grace_seconds": config.grace_seconds})
        notify_init(STOPPING)
    LOG.info("stopped", extra={"address": server.address})
