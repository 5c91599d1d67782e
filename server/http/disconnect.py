"""Ends a request's work early: when the client leaves, or the deadline passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from starlette.types import Receive, Scope

from server.errors import RequestTimeout
from server.http.protocol import LEAVING

T = TypeVar("T")


class ClientLeft(Exception):  # noqa: N818  # it is not an error
    """The client closed the connection; nobody is there to answer."""


async def unless_client_leaves(
    scope: Scope, receive: Receive, work: Awaitable[T], deadline: float | None = None
) -> T:
    """The result of the work. If the client leaves first or the deadline passes, the work is cancelled and
    its clean-up awaited; then raises ClientLeft or RequestTimeout.

    receive: ASGI's, of a request whose body has been read, so that its only message is the disconnect.
    deadline: of the loop's clock.
    """
    working, has_left = asyncio.ensure_future(work), False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        working.cancel()

    loop = asyncio.get_running_loop()
    timer = None if deadline is None else loop.call_at(deadline, working.cancel)
    forget = _watch(scope, receive, leave)
    try:
        return await working
    except asyncio.CancelledError:
        if has_left:
            raise ClientLeft from None
        if deadline is not None and loop.time() >= deadline:
            raise RequestTimeout(
                "the request took longer than this server allows (request_timeout_s)"
            ) from None
        raise
    finally:
        forget()
        if timer is not None:
            timer.cancel()


def _watch(scope: Scope, receive: Receive, leave: Callable[[], None]) -> Callable[[], object]:
    """Have `leave` called when the client leaves. Returns a function that ends this."""
    notify: Callable[[Callable[[], None] | None], None] | None = scope.get("extensions", {}).get(LEAVING)
    if notify is not None:
        notify(leave)
        return partial(notify, None)
    watching = asyncio.ensure_future(_left(receive))
    watching.add_done_callback(lambda task: None if task.cancelled() else leave())
    return watching.cancel


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
