"""Unix sockets to listen on: whose file is there, for whom, and until when."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.process.port import open_port, open_ports, stop_listening
from server.process.unixsocket import UnixListener


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_rights(tmp_path: Path, mode: int) -> None:
    """The file has the rights that were asked for, whatever the umask, and goes with the listener."""
    path, before = tmp_path / "s", os.umask(0o027)
    try:
        with UnixListener(path, mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert not path.exists()


def test_what_a_killed_server_has_left(tmp_path: Path) -> None:
    """A socket on which nobody listens is replaced."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with open_port(f"unix:{path}", 0, 0), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_another_server_is_there(tmp_path: Path) -> None:
    """A socket on which somebody listens is left alone."""
    path = tmp_path / "s"
    with open_port(f"unix:{path}", 0, 0):
        with pytest.raises(ConfigurationError, match="another program listens on"):
            open_port(f"unix:{path}", 0, 0)
        assert path.exists()


def test_a_file_is_there(tmp_path: Path) -> None:
    """What is no socket is left alone too, and a folder that is missing is named."""
    (tmp_path / "s").write_text("text")
    with pytest.raises(ConfigurationError, match="is not a socket"):
        open_port(f"unix:{tmp_path / 's'}", 0, 0)
    assert (tmp_path / "s").read_text() == "text"
    with pytest.raises(ConfigurationError, match="No such file"):
        open_port(f"unix:{tmp_path / 'none' / 's'}", 0, 0)


def test_the_next_servers_file_stays(tmp_path: Path) -> None:
    """Who ends removes the file that it has made, and no other one."""
    path = tmp_path / "s"
    with UnixListener(path, 0o600):
        path.unlink()
        other = UnixListener(path, 0o600)
    assert path.exists()
    other.close()


def test_one_socket_of_all_processes(tmp_path: Path) -> None:
    """Workers have the same one, which does not end for all when one ends."""
    path = tmp_path / "s"
    first, second = open_ports(f"unix:{path}", 0, 0, 2)
    with first, socket.socket(socket.AF_UNIX) as client:
        stop_listening(second)
        second.close()
        client.connect(str(path))
        first.accept()[0].close()
