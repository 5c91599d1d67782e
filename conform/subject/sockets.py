"""Sends raw bytes on a connection of its own, for what no HTTP client would send."""

from __future__ import annotations

import socket
from contextlib import suppress

import httpx

from conform.subject.client import Client
from conform.subject.ends import Unmet, require, shown

MOST_WAIT_S = 10.0
MOST_BYTES = 2**20


def head_of(client: Client, method: str, version: str, *lines: str) -> bytes:
    """The first line of a request and its headers."""
    url = httpx.URL(client.base)
    first = f"{method} {url.path}/completions HTTP/{version}"
    every = (first, f"host: {url.netloc.decode()}", f"authorization: Bearer {client.key}", *lines)
    return ("\r\n".join(every) + "\r\n\r\n").encode()


def say(client: Client, data: bytes, tokens: int = 0) -> tuple[int, str, str]:
    """(status, headers, body) of what comes until the server closes the connection.

    Raises Unmet if nothing comes, or the connection stays open.
    """
    client.budget.take(tokens)
    with _connection(client) as connection:
        with suppress(ConnectionError):  # it may have answered and closed already
            connection.sendall(data)
        answer = _all(connection)
    head, _, body = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    first = head.split(" ", 2)
    require(
        len(first) > 1 and first[0].startswith("HTTP/1.") and first[1].isdigit(),
        f"the answer is not HTTP: {shown(head) or 'nothing'}",
    )
    return int(first[1]), head.lower(), body


def _connection(client: Client) -> socket.socket:
    url = httpx.URL(client.base)
    port = url.port or (443 if url.scheme == "https" else 80)
    wait_s = min(client.timeout_s, MOST_WAIT_S)
    if client.socket_path:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(wait_s)
        connection.connect(client.socket_path)
    else:
        connection = socket.create_connection((url.host, port), timeout=wait_s)
    if url.scheme == "https":
        return client.context.wrap_socket(connection, server_hostname=url.host)
    return connection


def _all(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while len(answer) < MOST_BYTES and (piece := connection.recv(65536)):
            answer += piece
    except TimeoutError:
        raise Unmet(f"the connection stays open after {shown(answer.decode('utf-8', 'replace'))}") from None
    except ConnectionError:
        pass
    return answer
