"""How `verbatim reload`, and a worker that is asked for a change, reach the running server: over a socket
named after its port. SIGHUP reloads too.

The socket is "abstract" (Linux): it has a name but no file, so nothing is left when the server is killed.
Each side checks the user of the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from server.config.changes import AdapterChange
from server.errors import ConfigurationError, EngineFailed, Failure, NotFound

log = logging.getLogger(__name__)

Reload = Callable[[], Awaitable[str]]
Change = Callable[[AdapterChange], Awaitable[str]]
MAX_ASK_BYTES = 1 << 20
FAILURES: dict[str, type[Failure]] = {
    one.__name__: one for one in (ConfigurationError, EngineFailed, NotFound)
}
CREDENTIALS = struct.Struct("3i")  # process, user, group


def address(where: int | Path) -> str:
    """The socket's name. where: the server's port, or the path of its Unix socket, which is hashed because it
    is too long."""
    name = where if isinstance(where, int) else hashlib.sha256(bytes(where)).hexdigest()
    return f"\0verbatim-{name}"


def place_of(listener: socket.socket) -> int | Path:
    """Where the server listens."""
    name = listener.getsockname()
    return Path(name) if listener.family == socket.AF_UNIX else int(name[1])


async def answer_reloads(where: int | Path, reload: Reload, change: Change | None = None) -> None:
    """Answer until cancelled. reload, change: return what has changed; they raise a Failure if nothing, or
    not everything, could be changed."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[None] = asyncio.Queue()
    loop.add_signal_handler(signal.SIGHUP, asked.put_nowait, None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        server = None
        try:
            listener.bind(address(where))
            listener.setblocking(False)
            server = await asyncio.start_unix_server(_Answers(reload, change), sock=listener)
        except OSError as error:
            log.warning(
                "`verbatim reload` cannot reach this server (%s); send SIGHUP instead", error.strerror
            )
        try:
            while True:
                await asked.get()
                await _told(reload)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            if server is not None:
                server.close()


class _Answers:
    """Answers one connection on the socket."""

    def __init__(self, reload: Reload, change: Change | None) -> None:
        self._reload = reload
        self._change = change

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _user_of(writer.get_extra_info("socket")) in (0, os.getuid()):
                asked = await reader.read(MAX_ASK_BYTES)
                if asked and self._change is not None:
                    change = AdapterChange.model_validate_json(asked)
                    said = await _told(partial(self._change, change), "change")
                else:
                    said = await _told(self._reload)
                writer.write(json.dumps(said).encode())
                await writer.drain()
        except OSError:
            log.info("`verbatim reload` ended before the server had an answer for it")
        finally:
            writer.close()


async def _told(do: Reload, what: str = "reload") -> dict[str, str]:
    """The answer, which is also logged. failure: the class of the failure, if any."""
    try:
        message = await do()
    except Failure as failure:
        log.error("%s: %s", what, failure.message)
        return {"failure": type(failure).__name__, "message": failure.message}
    log.info("%s: %s", what, message)
    return {"failure": "", "message": message}


async def change_there(where: int | Path, change: AdapterChange) -> str:
    """As Reload.change, done by the process that runs the engines."""
    said = await asyncio.to_thread(_ask, where, change.model_dump_json().encode())
    failure = FAILURES.get(said["failure"])
    if failure is not None:
        raise failure(said["message"])
    return said["message"]


def ask(where: int | Path) -> tuple[bool, str]:
    """Ask the server there to reload: (whether it did, its answer). Raises ConfigurationError if no server
    listens there."""
    said = _ask(where, b"")
    return not said["failure"], said["message"]


def _ask(where: int | Path, what: bytes) -> dict[str, str]:
    shown = f"port {where}" if isinstance(where, int) else str(where)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address(where))
        except OSError:
            raise ConfigurationError(
                f"no server of this machine listens on {shown}; name it with --port or --config."
            ) from None
        if _user_of(connection) not in (0, os.getuid()) and os.getuid() != 0:
            raise ConfigurationError(
                f"the server on {shown} belongs to another user; run this as that user or as root."
            )
        with contextlib.suppress(OSError):  # the server hung up without an answer
            connection.sendall(what)
            connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer:
        raise ConfigurationError(
            f"the server on {shown} did not answer: it belongs to another user, or has ended."
        )
    said: dict[str, str] = json.loads(answer)
    return said


def _user_of(connection: socket.socket) -> int:
    """The user of the process at the other end."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    user: int = CREDENTIALS.unpack(data)[1]
    return user
