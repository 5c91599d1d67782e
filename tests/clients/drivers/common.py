"""The form that all drivers share: JSON on standard input says what to ask, a line of JSON what came of it.

Read in many environments: the standard library alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

STAYS_S = 3  # a program that goes on after it has cancelled


def status_of(error: BaseException) -> Any:
    """As most clients name it, on the error or on its response."""
    response = getattr(error, "response", None)
    return getattr(error, "status_code", None) or getattr(response, "status_code", None)


def exited(program: str, code: int, status: int | None, message: str) -> Exception:
    """The error of a client that is a command."""
    return type(f"exit {code}", (Exception,), {"__module__": program, "status_code": status})(message)


def drive(
    whole: Callable[[Any], str],
    pieces: Callable[[Any], Iterator[str]],
    status: Callable[[BaseException], Any] = status_of,
) -> None:
    """pieces: a generator, which is closed where the caller cancels."""
    ask = SimpleNamespace(**json.load(sys.stdin))
    error: BaseException | None = None
    texts: list[str] = []
    times: list[float] = []
    cancelled = False
    started = time.monotonic()
    try:
        if ask.stream:
            stream = pieces(ask)
            for text in stream:
                if not text:
                    continue
                texts.append(text)
                times.append(time.monotonic() - started)
                if len(texts) == ask.cancel_after:
                    cancelled = True
                    stream.close()
                    break
        else:
            texts.append(whole(ask))
    except Exception as caught:  # noqa: BLE001 - whatever a client raises is what is asked about
        error = caught
    seconds = time.monotonic() - started
    told = {
        "text": "".join(texts),
        "pieces": len(texts),
        "first_s": times[0] if times else None,
        "error": error and f"{type(error).__module__.split('.')[0]}.{type(error).__qualname__}",
        "status": error and status(error),
        "message": error and str(error)[:300],
        "seconds": seconds,
    }
    if cancelled:
        time.sleep(STAYS_S)
    print("\n" + json.dumps(told), flush=True)
