"""What of a server's settings lets more people in than may have been meant: told when it starts, and allowed."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator

from annserve.config import ServeConfig
from annserve.guard.listen import parse_address

_OTHERS_READ, _OTHERS_WRITE = stat.S_IROTH, stat.S_IWGRP | stat.S_IWOTH


def cautions_of(config: ServeConfig) -> Iterator[str]:
    """Give a line for each; files that aren't there are for others to miss."""
    for field in ("listen", "http_listen"):
        text = getattr(config, field)
        if config.insecure and text and not ipaddress.ip_address(parse_address(text, guarded=True).host).is_loopback:
            yield f"{field} {text} is open to everyone who reaches it, as --insecure says"
    if config.tls_client_ca and not config.keys and config.keyless_role == "admin":
        yield (
            f"every client whose certificate {config.tls_client_ca} signed may do everything, and delete collections; "
            "give --keyless-role read, or --keys"
        )
    for path, mode, can in ((config.tls_key, _OTHERS_READ, "read"), (config.keys, _OTHERS_WRITE, "write")):
        try:
            loose = path is not None and path.stat().st_mode & mode
        except OSError:
            continue
        if loose:
            yield f"others than its owner can {can} {path}; take that away with chmod go= {path}"
