"""The small HTTP client behind `verbatim complete`: the standard library's, so that it adds no dependency."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S = 10.0
HOSTED_PATH = "/v3/openai"
UNIX = "unix:"


class ClientError(Exception):
    """What went wrong, for a person at a terminal."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)


def _unix(url: str) -> tuple[str, str]:
    """The path of unix:PATH, and a URL for what is asked there; no path of another one."""
    return (url.removeprefix(UNIX), "http://localhost") if url.startswith(UNIX) else ("", url)


class Endpoint:
    """A server's address and the key for it."""

    def __init__(self, url: str, api_key: str) -> None:
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
            raise ClientError("the API key has a character that no key has")
        self.url = given
        self.socket_path = socket_path
        self.tls = parts.scheme == "https"
        self.path = parts.path.rstrip("/") or HOSTED_PATH
        self.api_key = api_key

    @contextmanager
    def open(self, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
        """The reply to one request, its body still to be read. An error status is a ClientError."""
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        try:
            connection.connect()
            connection.sock.settimeout(None)  # a long completion is not an error
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self.path + path, payload, headers)
            with connection.getresponse() as response:
                if response.status >= 400:
                    raise ClientError(_message(response.status, response.read()))
                yield response
        except (ConnectionRefusedError, FileNotFoundError):
            raise ClientError(f"no server answers at {self.url}; start one with `verbatim serve`") from None
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(
                f"the connection to {self.url} failed: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()

    def ask_root(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and answer of what is beside the completions, whatever the status is."""
        connection = self._connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, _object(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"no server answers at {self.url}: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.socket_path:
            return UnixConnection(self.socket_path)
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=CONNECT_TIMEOUT_S)

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
        raise ClientError("the server's reply is not a JSON object; is the URL that of a completions server?")
    return data


def _message(status: int, payload: bytes) -> str:
    """The server's own words, whichever of the two error shapes they come in."""
    try:
        data = json.loads(payload)
        inner = data.get("error")
        words = data.get("message") or (inner.get("message") if isinstance(inner, dict) else inner)
        reason = data.get("reason", "")
    except (ValueError, AttributeError):
        words, reason = payload[:200].decode(errors="replace").strip(), ""
    return f"{status} {reason}".strip() + f": {words or 'no message'}"


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The chunks of a stream. An error frame is a ClientError, and so is an end without [DONE]."""
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
    raise ClientError("the stream ended before its end; the server may have stopped")
