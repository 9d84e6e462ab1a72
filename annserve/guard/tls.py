"""Encryption: certificates are tried before a port is opened, and read anew when their files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import grpc

from annserve.config import ServeConfig
from annserve.errors import InputError

LOG = logging.getLogger("annserve.guard")

Made = TypeVar("Made")


@dataclass(frozen=True)
class Certificates:
    """Files that a server proves itself with, and those that clients are to prove themselves to.

    Parameters
    ----------
    certificate : Path
        The server's certificate and its intermediates, PEM.
    key : Path
        Its private key, PEM, without a passphrase.
    client_ca : Path or None
        Who must have signed a client's certificate; None asks clients for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def server_credentials(self) -> grpc.ServerCredentials:
        """Give what gRPC listens with; each new connection sees the files as they are then.

        Raises
        ------
        InputError
            If a file can't be read, isn't PEM, or certificate and key aren't a pair.
        """
        read = _Renewed(self, self._configuration)
        # None says that nothing changed, which the stub doesn't know.
        return grpc.dynamic_ssl_server_credentials(read.now, read.look, self.client_ca is not None)  # type: ignore[arg-type]

    def contexts(self) -> Callable[[], ssl.SSLContext]:
        """Give what tells what an HTTP server encrypts its next connection with; errors as of `server_credentials`."""
        read = _Renewed(self, self.context)

        def newest() -> ssl.SSLContext:
            read.look()
            return read.now

        return newest

    def context(self) -> ssl.SSLContext:
        """Give what an HTTP server listens with.

        Raises
        ------
        InputError
            As `server_credentials`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _check_readable(self.certificate, "tls_certificate")
        _check_readable(self.key, "tls_key")
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.certificate} and {self.key} aren't a certificate and its key, both PEM, the key without a "
                f"passphrase: {_reason(error)}",
                field="tls_certificate",
            ) from None
        if self.client_ca:
            _check_readable(self.client_ca, "tls_client_ca")
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.client_ca} holds no certificates as PEM: {_reason(error)}", field="tls_client_ca"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        self.context()  # which says what is wrong, as gRPC doesn't
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], self.client_ca.read_bytes() if self.client_ca else None
        )

    def stamp(self) -> list[int]:
        """Give what tells these files from those that replace them; nothing where one is missing."""
        files = [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
        try:
            return [file.stat().st_mtime_ns for file in files]
        except OSError:
            return []


class _Renewed(Generic[Made]):
    """What is made of certificates, and made anew when their files change.

    Attributes
    ----------
    now : object
        As it was made last.
    """

    def __init__(self, certificates: Certificates, make: Callable[[], Made]) -> None:
        self._certificates, self._make = certificates, make
        self._stamp = certificates.stamp()
        self.now = make()

    def look(self) -> Made | None:
        """Make it anew if the files have changed and are whole; else give nothing."""
        stamp = self._certificates.stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            self.now = self._make()
        except InputError as error:  # half of a rotation, say: the pair that was read last still is one
            LOG.error("certificates not read anew, the former ones stay", extra={"error": str(error)})
            return None
        LOG.info("certificates read anew", extra={"certificate": str(self._certificates.certificate)})
        return self.now


def certificates_of(config: ServeConfig) -> Certificates | None:
    """Give the certificates that a server is set to use, if any."""
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificates(config.tls_certificate, config.tls_key, config.tls_client_ca)


def is_guarded(certificates: Certificates | None, keys: Path | None) -> bool:
    """Say whether traffic is encrypted and callers show who they are, so that an address may be open to everyone."""
    return certificates is not None and (keys is not None or certificates.client_ca is not None)


def _check_readable(path: Path, field: str) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise InputError(f"{path} can't be read: {why}; give a PEM file", field=field) from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
