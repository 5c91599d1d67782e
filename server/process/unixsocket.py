"""A Unix socket to listen on: a file that is there as long as the server is, and nobody else's."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from server.errors import ConfigurationError


class UnixListener(socket.socket):
    """Bound to this path. Its file goes when it is closed, unless it is another's by then.

    mode: of the file; who may write to it may connect. Raises ConfigurationError where there is none
    to be had.
    """

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path = path
        self._inode: int | None = None
        try:
            _make_room(path)
            os.fchmod(self.fileno(), mode)  # so that nobody else may for a moment, whatever the umask
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
    """Remove what a server has left that was killed. Raises ConfigurationError for what is not that."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"{path} is there, and is no socket: choose another path, or remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(1)
        try:
            visitor.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except TimeoutError:  # it listens, and takes nobody at the moment
            pass
    raise ConfigurationError(f"another program listens on {path}: end it, or choose another path.")


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
