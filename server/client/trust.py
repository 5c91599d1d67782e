"""TLS options that all client commands share: the client's certificate, and the CAs to trust."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from server.client.failure import ClientError

Cert = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        envvar="VERBATIM_CLIENT_CERT",
        help="Client certificate to show the server, PEM.",
        show_default=False,
    ),
]
CertKey = Annotated[
    Path | None,
    typer.Option(
        envvar="VERBATIM_CLIENT_KEY",
        help="Private key of --cert, PEM. Default: in the same file.",
        show_default=False,
    ),
]
CA = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="VERBATIM_CA",
        help="CA certificates to trust, PEM, instead of the system's.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Trust:
    """TLS files of a client, in PEM.

    cert, key: the client's own. ca: CAs that may have signed the server's certificate; None: the system's.
    checks: off for the server of this machine, whose certificate has its public name, not localhost.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    checks: bool = True

    @property
    def says_tls(self) -> bool:
        """Whether to use TLS where the address cannot say so: on a Unix socket."""
        return bool(self.cert or self.ca)

    def context(self) -> ssl.SSLContext:
        """Raises ClientError, which names the file."""
        context = self._trusting()
        if not self.checks and self.ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.key is not None and self.cert is None:
            raise ClientError("--cert-key needs --cert, the certificate of this key")
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                files = f"--cert {self.cert}" + (f", --cert-key {self.key}" if self.key else "")
                raise ClientError(f"{files}: {_words(error)}") from None
        return context

    def _trusting(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ClientError(f"--ca {self.ca}: {_words(error)}") from None


PLAIN = Trust()


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or error).lower().replace("_", " ")
        return f"not PEM, or the key does not belong to the certificate ({reason})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "the private key is encrypted; give a decrypted one"


def _no_password() -> str:
    """Refuse an encrypted key: without this, OpenSSL asks for the password at the terminal."""
    raise ValueError("encrypted")
