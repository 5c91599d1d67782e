"""What a client really sends: a relay of TCP before a server, which sees each request come and end."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

REQUEST = re.compile(rb"(?:GET|POST|PUT|DELETE|HEAD) (\S+) HTTP/1\.[01]\r\n")
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass
class Request:
    """Times are of time.monotonic. ended: of the last byte of the reply, or of the connection. left: when the
    client closed the connection, if that was before the server had."""

    path: str
    connection: int
    came: float
    status: int | None = None
    ended: float = 0.0
    left: float | None = None


@dataclass
class Witness:
    """No client of these pipelines: what it sends begins with a request line or goes on with a body."""

    port: int = 0
    upstream: tuple[str, int] = ("", 0)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def posts(self) -> list[Request]:
        """The completions that were asked for."""
        return [request for request in self.requests if request.path.endswith("/completions")]

    def waits_s(self) -> list[float]:
        """From the end of a try to the beginning of the next."""
        posts = self.posts()
        return [max(0.0, after.came - before.ended) for before, after in itertools.pairwise(posts)]

    def serve(self, listener: socket.socket) -> None:
        """Until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._relay, args=(client, self.connections), daemon=True).start()

    def _relay(self, client: socket.socket, number: int) -> None:
        with client, socket.create_connection(self.upstream) as server:
            back = threading.Thread(target=self._answer, args=(client, server, number), daemon=True)
            back.start()
            for data in received(client):
                if found := REQUEST.match(data):
                    now = time.monotonic()
                    self.requests.append(Request(found[1].decode(), number, now, ended=now))
                if not passed_on(server, data):
                    break
            if (last := self._last(number)) and back.is_alive():
                last.left = time.monotonic()
            shut(server)
            back.join()

    def _answer(self, client: socket.socket, server: socket.socket, number: int) -> None:
        for data in received(server):
            if last := self._last(number):
                if last.status is None and (found := STATUS.match(data)):
                    last.status = int(found[1])
                last.ended = time.monotonic()
            if not passed_on(client, data):
                break
        if last := self._last(number):
            last.ended = max(last.ended, time.monotonic() if last.status is None else 0.0)
        shut(client)

    def _last(self, number: int) -> Request | None:
        of_it = [request for request in self.requests if request.connection == number]
        return of_it[-1] if of_it else None


def received(connection: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            yield data


def passed_on(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def shut(connection: socket.socket) -> None:
    """Wakes whoever reads from it, too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def witnessing(upstream: tuple[str, int]) -> Iterator[Witness]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        witness = Witness(listener.getsockname()[1], upstream)
        threading.Thread(target=witness.serve, args=(listener,), daemon=True).start()
        yield witness
        shut(listener)
