"""A Unix socket to listen on. Its file exists as long as the server does."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from server.errors import ConfigurationError


class UnixListener(socket.socket):
    """A socket bound to this path. Closing it removes the file, unless the file belongs to another
    server by then.

    mode: of the file; who may write to it may connect. Raises ConfigurationError.
    """

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path = path
        self._inode: int | None = None
        try:
            _make_room(path)
            # Before the socket is reachable, so that nobody else can connect meanwhile, whatever the umask
            os.fchmod(self.fileno(), mode)
            self.bind(str(path))
            self._inode = path.stat().st_ino
            path.chmod(mode)
        except OSError as error:
            self.close()
            raise ConfigurationError(f"cannot listen on {path}: {error.strerror or error}.") from None
        except ConfigurationError:
            self.close()
            raise

    def close(self) -> None:
        if self._inode is not None and _inode(self.path) == self._inode:
            self.path.unlink()
        self._inode = None
        super().close()


def _make_room(path: Path) -> None:
    """Remove the socket of a killed server. Raises ConfigurationError for anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"{path} exists and is not a socket: choose another path, or remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(1)
        try:
            visitor.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except TimeoutError:  # a program listens, but does not accept at the moment
            pass
    raise ConfigurationError(f"another program listens on {path}: end it, or choose another path.")


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
