"""uvicorn's HTTP protocol with one ASGI extension: to write a part of a body without being awaited.

`send` is a coroutine, a message and a dozen checks for each chunk, as much as half of a token's way. An
application finds the extension in scope["extensions"][WRITE], and does without where it is not there.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WRITE = "verbatim.write"


class Protocol(HttpToolsProtocol):
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        extensions: dict[str, object] = {WRITE: self.write_chunk}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]  # uvicorn knows its own

    def write_chunk(self, part: bytes) -> bool:
        """Write a part of the running response, which has begun and has no content-length, as one chunk.

        False: the connection is full or closed, and nothing was written; `send` waits until it takes more.
        """
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return True
