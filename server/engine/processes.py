"""No engine process outlives its server, however the server ends.

vLLM's engine process does not notice that the process which started it is gone: after a kill -9 of the server
it would keep its memory for ever. So each of vLLM's processes runs `follow_server` as a plugin of vLLM's (an
entry point in pyproject.toml), which ends it with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import psutil

SERVER_PID = "VERBATIM_SERVER_PID"  # set by the server for the processes that vLLM starts

T = TypeVar("T")


def follow_server() -> None:
    """Plugin of vLLM's: end this process when the server has ended. Does nothing in the server itself."""
    server = int(os.environ.get(SERVER_PID, "0"))
    if server in (0, os.getpid()):
        return
    try:
        server_fd = os.pidfd_open(server)
    except OSError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_end_with, args=(server_fd,), name="follow-server", daemon=True).start()


def _end_with(server_fd: int) -> None:
    select.select([server_fd], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def with_descendants(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes and all that they started. Those that have ended are passed over."""
    found: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """End processes at once; psutil knows a process from a later one that got its number."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def in_builder_thread(work: Callable[[], T]) -> T:
    """The result of work that takes long and cannot be interrupted, in a thread that holds up no exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to whoever waits
            tell = partial(_settle, done.set_exception, error)
        else:
            tell = partial(_settle, done.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell)

    def _settle(setter: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            setter(value)

    threading.Thread(target=run, name="engine-builder", daemon=True).start()
    return await done
