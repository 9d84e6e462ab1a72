"""Options of commands that ask a server: where it is, how to reach it, and what to show there."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from annserve.errors import InputError

#: What gRPC's core would log stands in the error too; said before it is loaded, as it looks but once.
_GRPC_QUIET = {"GRPC_VERBOSITY": "NONE", "GLOG_minloglevel": "4"}


@dataclass(frozen=True)
class Remote:
    """A server as a command was told of it; `settings` are those of ``client.Door``."""

    address: str
    settings: dict[str, Any]


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command options of which it gets one argument, `server`, a `Remote`."""

    @functools.wraps(command)
    def with_server(address: str, key_file: Path | None, **options: Any) -> Any:
        for name, value in _GRPC_QUIET.items():
            os.environ.setdefault(name, value)
        settings = {name: options.pop(name) for name in ("tls", "tls_ca", "tls_certificate", "tls_key", "timeout")}
        return command(server=Remote(address, {**settings, "api_key": _key(key_file)}), **options)

    path = click.Path(path_type=Path)
    for option in (
        click.option("--timeout", default=30.0, show_default=True, help="Seconds that the whole call may take."),
        click.option(
            "--key-file",
            type=path,
            help="File with the API key to show.  [default: the environment's ANNSERVE_API_KEY]",
        ),
        click.option("--tls-key", type=path, help="Its private key (PEM)."),
        click.option("--tls-certificate", type=path, help="Certificate to show to the server (PEM)."),
        click.option("--tls-ca", type=path, help="Encrypt; trust what these certificates signed (PEM)."),
        click.option("--tls", is_flag=True, help="Encrypt; trust the certificates that this machine trusts."),
        click.option("--address", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the server."),
    ):
        with_server = option(with_server)
    return with_server


def _key(file: Path | None) -> str | None:
    """Give the key to show, if any; never a flag, for others see the flags of a process."""
    if file is None:
        return os.environ.get("ANNSERVE_API_KEY") or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else (error.strerror or "").lower()
        raise InputError(f"{file} can't be read: {why}; give the file that holds the key", field="key_file") from None
