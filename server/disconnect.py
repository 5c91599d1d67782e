"""A client that leaves ends its work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientLeft(Exception):  # noqa: N818  # nothing is wrong
    """The client closed the connection; nobody is there to answer."""


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client leaves first: then raises ClientLeft.

    receive: ASGI's, of a request whose body has been read, so that all it can say is that the client left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))  # its own clean-up is done when this returns


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
