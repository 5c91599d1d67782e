"""The port's TLS context, made again when the files of its certificates change."""

from __future__ import annotations

import logging
import ssl
import stat
from pathlib import Path

from server.config.sections import TLS
from server.errors import ConfigurationError

log = logging.getLogger(__name__)


class Certificates:
    """The TLS context for handshakes. If changed files cannot be used, the last good context stays, and the
    log says so. Established connections keep theirs.

    Raises ConfigurationError if the files cannot be used at the start.
    """

    def __init__(self, settings: TLS) -> None:
        self._settings = settings
        self._mark = _marks(settings)
        self._context = read_context(settings)

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are now."""
        mark = _marks(self._settings)
        if mark != self._mark:
            self._mark = mark
            try:
                self._context = read_context(self._settings)
                log.info("the certificate in %s is in use", self._settings.cert)
            except ConfigurationError as error:
                log.error("%s The certificate that was read before stays in use.", error.message)
        return self._context


def read_context(settings: TLS) -> ssl.SSLContext:
    """The context of these files. Raises ConfigurationError, which names the file and what to do."""
    try:
        return _context_of(settings)
    except OSError as error:  # a file vanished since it was checked, as when files are being replaced
        raise ConfigurationError(
            f"tls: cannot read {error.filename or settings.cert}: {error.strerror or error}."
        ) from None


def _context_of(settings: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    key = settings.key or settings.cert
    for file in (settings.cert, key, settings.client_ca):
        if file is not None:
            _check_readable(file)
    if key.stat().st_mode & stat.S_IROTH:
        log.warning("every user of this machine can read the key in %s: `chmod o= %s`", key, key)
    try:
        context.load_cert_chain(settings.cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(_problem(settings.cert, key, error)) from None
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError:
            raise ConfigurationError(
                f"tls: {settings.client_ca} has no certificate in PEM (-----BEGIN CERTIFICATE-----)."
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"tls: cannot read {file}: {error.strerror or error}.") from None


def _problem(cert: Path, key: Path, error: ssl.SSLError | ValueError) -> str:
    reason = getattr(error, "reason", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return f"tls: the key in {key} is not that of the certificate in {cert}."
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return f"tls: the key in {key} is encrypted, and the server cannot ask for its password: decrypt it."
    return (
        f"tls: {cert} must have the certificate with its chain up to the root, and {key} must have its key,"
        f" both in PEM ({str(reason).lower().replace('_', ' ')})."
    )


def _no_password() -> str:
    """Refuse an encrypted key: without this, OpenSSL asks for the password at the terminal."""
    raise ValueError("encrypted")


def _marks(settings: TLS) -> tuple[tuple[int, ...] | None, ...]:
    """Values that change when the files do."""
    return tuple(map(_mark, (settings.cert, settings.key, settings.client_ca)))


def _mark(file: Path | None) -> tuple[int, ...] | None:
    try:
        found = file.stat() if file else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino) if found else None
