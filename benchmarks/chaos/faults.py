"""The faults: signals to an engine's processes, and invalid messages on its sockets."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import zmq

from server.engine.vllm.wire import CoreOutput, CoreOutputs, encode

# (the server's process, its TMPDIR, a random generator)
Fault = Callable[[int, Path, random.Random], None]

WORKER = "server.process.worker"
SENT_WITHIN_MS = 1000


def engines(server: int) -> list[psutil.Process]:
    """The main processes of the engines of this server."""
    return _started(server, are_workers=False)


def workers(server: int) -> list[psutil.Process]:
    """The worker processes of this server."""
    return _started(server, are_workers=True)


def _started(server: int, *, are_workers: bool) -> list[psutil.Process]:
    """The processes that the server started. (An engine changes its own name.)"""
    found = []
    for process in psutil.Process(server).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if (WORKER in process.cmdline()) is are_workers:
                found.append(process)
    return found


def sockets(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sockets on which a server with this TMPDIR receives its engines' outputs: of its main process, and
    of its workers."""
    found = sorted(path for path in folder.rglob("out") if path.is_socket())
    return (
        [path for path in found if path.parent.parent == folder],
        [path for path in found if path.parent.parent != folder],
    )


def garbage(draw: random.Random) -> list[bytes]:
    """A message of random bytes, empty or up to a few thousand."""
    return [draw.randbytes(draw.choice((0, 1, 7, 100, 5000))) for _ in range(draw.randint(1, 3))]


def cut(draw: random.Random) -> list[bytes]:
    """A message that an engine could have sent, without its end."""
    message: bytes = encode(CoreOutputs(outputs=[CoreOutput("a job", [1, 2, 3])], timestamp=1.0))
    return [message[: draw.randint(1, len(message) - 1)]]


def send(path: Path, message: list[bytes]) -> None:
    """Send a message to one of the server's sockets, as an engine would."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.linger = sender.sndtimeo = SENT_WITHIN_MS
        sender.connect(f"ipc://{path}")
        sender.send_multipart(message)


def send_raw(path: Path, data: bytes) -> None:
    """Send bytes that are not even a message."""
    with contextlib.suppress(BrokenPipeError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(data)


def signalled(number: signal.Signals) -> Fault:
    def fault(server: int, folder: Path, draw: random.Random) -> None:
        for engine in engines(server)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine.pid, number)

    return fault


def sent(message: Callable[[random.Random], list[bytes]], *, to_worker: bool = False) -> Fault:
    def fault(server: int, folder: Path, draw: random.Random) -> None:
        if found := sockets(folder)[to_worker]:
            send(draw.choice(found), message(draw))

    return fault


def _send_raw(server: int, folder: Path, draw: random.Random) -> None:
    send_raw(draw.choice([path for paths in sockets(folder) for path in paths]), draw.randbytes(5000))


def kill_worker(server: int, folder: Path, draw: random.Random) -> None:
    """Kill a worker, and with it its connections."""
    if found := workers(server):
        draw.choice(found).kill()


# To a worker's socket: the engine lives on, and the worker connects to it again.
FAULTS: dict[str, Fault] = {
    "kill -9": signalled(signal.SIGKILL),
    "SIGSTOP": signalled(signal.SIGSTOP),
    "SIGSEGV": signalled(signal.SIGSEGV),
    "garbage": sent(garbage),
    "cut message": sent(cut),
    "garbage to a worker": sent(garbage, to_worker=True),
    "cut message to a worker": sent(cut, to_worker=True),
    "raw bytes": _send_raw,
}
