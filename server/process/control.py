"""How `verbatim reload` reaches a running server: a socket that its port names, and SIGHUP.

The socket has a name and no file ("abstract", as Linux calls it): nothing is left of it when the server is
killed. Each side looks at whose process the other one is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable

from server.errors import ConfigurationError, Failure

log = logging.getLogger(__name__)

Reload = Callable[[], Awaitable[str]]
CREDENTIALS = struct.Struct("3i")  # process, user, group


def address(port: int) -> str:
    return f"\0verbatim-{port}"


async def answer_reloads(port: int, reload: Reload) -> None:
    """Until cancelled. reload: returns what has changed, and raises ConfigurationError or EngineFailed where
    nothing has, or not all."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[None] = asyncio.Queue()
    loop.add_signal_handler(signal.SIGHUP, asked.put_nowait, None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        server = None
        try:
            listener.bind(address(port))
            listener.setblocking(False)
            server = await asyncio.start_unix_server(_Answers(reload), sock=listener)
        except OSError as error:
            log.warning("`verbatim reload` will not reach this server (%s); SIGHUP does", error.strerror)
        try:
            while True:
                await asked.get()
                await _told(reload)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            if server is not None:
                server.close()


class _Answers:
    """To one who asks over the socket."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _user_of(writer.get_extra_info("socket")) in (0, os.getuid()):
                done, message = await _told(self._reload)
                writer.write(json.dumps({"done": done, "message": message}).encode())
                await writer.drain()
        except OSError:
            log.info("whoever asked for the reload has not waited for it")
        finally:
            writer.close()


async def _told(reload: Reload) -> tuple[bool, str]:
    """Whether it is done, and what there is to say, which the log has as well."""
    try:
        message = await reload()
    except Failure as failure:
        log.error("reload: %s", failure.message)
        return False, failure.message
    log.info("reload: %s", message)
    return True, message


def ask(port: int) -> tuple[bool, str]:
    """Have the server on this port read its configuration anew: whether it has, and what it says. Raises
    ConfigurationError where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address(port))
        except OSError:
            raise ConfigurationError(
                f"no server of this machine listens on port {port}; say which with --port."
            ) from None
        if _user_of(connection) not in (0, os.getuid()) and os.getuid() != 0:
            raise ConfigurationError(f"the server on port {port} is another user's.")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer:
        raise ConfigurationError(
            f"the server on port {port} has given no answer: it is another user's, or has ended."
        )
    said = json.loads(answer)
    return said["done"], said["message"]


def _user_of(connection: socket.socket) -> int:
    """Whose process is at the other end."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    user: int = CREDENTIALS.unpack(data)[1]
    return user
