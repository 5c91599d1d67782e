"""A small HTTP client for `verbatim complete` and other commands, with the standard library only."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from server.client.failure import ClientError
from server.client.trust import PLAIN, Trust

CONNECT_TIMEOUT_S = 10.0
HOSTED_PATH = "/v3/openai"
UNIX = "unix:"
CLOSED = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket. context: for TLS; None: without TLS."""

    def __init__(self, path: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__("localhost")
        self._path = path
        self._context = context

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname="localhost")


def _unix(url: str) -> tuple[str, str]:
    """(path of unix:PATH, a URL for requests to it); the path is empty for another URL."""
    return (url.removeprefix(UNIX), "http://localhost") if url.startswith(UNIX) else ("", url)


class Endpoint:
    """A server's address and the key for it. trust: for TLS. tls: use TLS on a Unix socket too, whose address
    cannot say so. Raises ClientError."""

    def __init__(self, url: str, api_key: str, trust: Trust = PLAIN, *, tls: bool = False) -> None:
        given = url
        try:
            socket_path, url = _unix(url)
            parts = urlsplit(url if "//" in url else f"http://{url}")
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ClientError(f"{url} is not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not self.host:
            raise ClientError(f"{url} is not an http or https URL")
        if not api_key.isascii() or not api_key.isprintable():
            raise ClientError("the API key has a character outside printable ASCII")
        self.url = given
        self.socket_path = socket_path
        self.tls = parts.scheme == "https" or bool(socket_path and (tls or trust.says_tls))
        self._shows = trust.cert is not None
        self._context = trust.context() if self.tls or trust.says_tls else None
        self.path = parts.path.rstrip("/") or HOSTED_PATH
        self.api_key = api_key

    @contextmanager
    def open(self, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
        """The response to one request, with its body still to be read. An error status raises ClientError."""
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            connection.connect()
            connection.sock.settimeout(None)  # a long completion is not an error
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self.path + path, payload, headers)
            with connection.getresponse() as response:
                if response.status >= 400:
                    wait = response.headers.get("Retry-After", "")
                    again = f"; send it again after {wait} s" if wait.isdecimal() else ""
                    raise ClientError(_message(response.status, response.read()) + again)
                yield response
        except (ConnectionRefusedError, FileNotFoundError):
            raise ClientError(
                f"no server answers at {self.url}; start one with `verbatim serve`, or name the address of"
                " another with --url"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"the connection to {self.url} failed: {self._words(error)}") from None
        finally:
            connection.close()

    def ask_root(self, path: str) -> tuple[int, dict[str, Any]]:
        """(status, answer) of a path outside of the API, whatever the status is."""
        connection = self._connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, _object(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"no server answers at {self.url}: {self._words(error)}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.socket_path:
            return UnixConnection(self.socket_path, self._context)
        if self.tls:
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=CONNECT_TIMEOUT_S, context=self._context
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_TIMEOUT_S)

    def _words(self, error: Exception) -> str:
        """The error in words, with advice about certificates. With TLS 1.3, a server that refuses a client's
        certificate may say so after the handshake, and be gone by then."""
        said = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{said}; --ca names the certificates to trust"
        if self.tls and not self._shows and isinstance(error, CLOSED):
            return f"{said}; if the server asks for a certificate, name one with --cert and --cert-key"
        if not self.tls and not self.socket_path and isinstance(error, http.client.RemoteDisconnected):
            return f"{said}; if the server has TLS, its address begins with https://"
        return said

    def first_model(self) -> str:
        with self.open("GET", "/models") as response:
            data = self.read_json(response)
        try:
            return str(data["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise ClientError("the server lists no models; name one with --model") from None

    def read_json(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        return _object(response.read())


def _object(payload: bytes) -> dict[str, Any]:
    try:
        data = json.loads(payload)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ClientError(
            "the server's reply is not a JSON object; check that the URL is that of a completions server"
        )
    return data


def _message(status: int, payload: bytes) -> str:
    """The server's message, in either of the two error shapes."""
    try:
        data = json.loads(payload)
        inner = data.get("error")
        words = data.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
        reason = data.get("reason", "")
    except (ValueError, AttributeError):
        words, reason = payload[:200].decode(errors="replace").strip(), ""
    return f"{status} {reason}".strip() + f": {words or 'no message'}"


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The chunks of a stream. An error frame raises ClientError, and so does an end without [DONE]."""
    for line in iter(response.readline, b""):
        if not line.startswith(b"data:"):
            continue
        payload = line.removeprefix(b"data:").strip()
        if payload == b"[DONE]":
            return
        event = _object(payload)
        if "choices" not in event:
            raise ClientError("the stream failed: " + _message(int(event.get("code", 500)), payload))
        yield event
    raise ClientError("the stream ended without [DONE]; the server may have stopped")
