"""What the client commands show a server with TLS, and whom they trust: the same options for all of them."""

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
        help="A certificate to show the server, PEM.",
        show_default=False,
    ),
]
CertKey = Annotated[
    Path | None,
    typer.Option(
        envvar="VERBATIM_CLIENT_KEY",
        help="Its key, PEM; default: in the same file.",
        show_default=False,
    ),
]
CA = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="VERBATIM_CA",
        help="Certificates to trust, PEM, instead of the system's.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Trust:
    """cert, key: shown to the server. ca: whose signature its certificate needs; None: one of the system's.

    checks: off for a server of this machine, whose certificate names it as others know it.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    checks: bool = True

    @property
    def says_tls(self) -> bool:
        """Whether TLS is meant also where an address cannot say it, as that of a Unix socket."""
        return bool(self.cert or self.ca)

    def context(self) -> ssl.SSLContext:
        """Raises ClientError that names the file."""
        context = self._trusting()
        if not self.checks and self.ca is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.key is not None and self.cert is None:
            raise ClientError("--cert-key is the key of a certificate: give --cert too")
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
        return f"it should be in PEM, and a key that of its certificate ({reason})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "its key is encrypted; decrypt it"


def _no_password() -> str:
    """OpenSSL would ask for it at the terminal."""
    raise ValueError("encrypted")
