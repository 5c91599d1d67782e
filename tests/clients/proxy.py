"""nginx before a server, as it is when it is installed: its buffering and its timeouts are the defaults."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.clients.environments import PATH
from tests.serving import wait_for

PROGRAM = shutil.which("nginx", path=PATH) or "nginx"
CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass {upstream}; proxy_http_version {version}; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, upstream: str, version: str) -> Iterator[str]:
    """Its URL. version: of HTTP, to the server; 1.0 is what nginx takes where nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "nginx.conf"
    file.write_text(CONFIG.format(folder=folder, port=port, upstream=upstream, version=version))
    process = subprocess.Popen([PROGRAM, "-c", file, "-e", folder / "error.log"])
    try:
        wait_for(lambda: listens(port), 10)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
