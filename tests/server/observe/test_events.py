"""Events of the log: each has one name, and is one line."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.events import calls
from server.observe import logs
from server.observe.events import EVENTS, OTHER, REQUEST, REQUEST_FIELDS

RESERVED = {"time", "level", "event", "message", "pid", "logger", "exception"}


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What is logged as JSON meanwhile."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    error, sys.stderr = sys.stderr, stream
    try:
        logs.configure("debug", "json")
        yield stream
    finally:
        sys.stderr = error
        root.handlers, root.level = handlers, level
        logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_message_is_an_event() -> None:
    """Each call of a log in the server has an entry with names for its values; no entry lacks a call."""
    found = {text: count for text, _, count in calls()}
    assert found == {text: len(fields) for text, (_, *fields) in EVENTS.items()}


def test_an_event_has_one_name() -> None:
    """And a name is one event's; no field hides what each line has."""
    names = [name for name, *_ in EVENTS.values()]
    assert len(names) == len({*names, REQUEST, OTHER}) - 2
    assert not RESERVED & {field for _, *fields in EVENTS.values() for field in fields}
    assert not RESERVED & REQUEST_FIELDS.keys()
    assert all(len(fields) == len({*fields}) for _, *fields in EVENTS.values())


def test_an_event_has_its_fields(said: io.StringIO) -> None:
    """As they are: numbers as numbers. The message is the text log's."""
    logging.getLogger("server.process.workers").error(
        "worker %d ended (%s); starting another one in %g s", 2, Path("signal 9"), 1.5
    )
    (line,) = lines(said)
    assert line.pop("time").endswith("+00:00")
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "level": "error",
        "event": "worker.ended",
        "message": "worker 2 ended (signal 9); starting another one in 1.5 s",
        "worker": 2,
        "how": "signal 9",
        "seconds": 1.5,
    }


def test_nobody_forges_a_line(said: io.StringIO) -> None:
    """Whatever a client sends is inside of a value, on one line, in ASCII: line breaks, quotes, half
    characters. What JSON has no number for is text."""
    user = 'a"\n{"event": "server.stopped"}\u2028\udc00é'
    logs.log_request(user=user, seconds=math.nan, status=200, reason="", model=None)
    (line,) = lines(said)
    assert said.getvalue().isascii()
    assert (line["event"], line["user"], line["seconds"], line["status"]) == (REQUEST, user, "nan", 200)
    assert not {"reason", "model"} & line.keys()


def test_a_traceback_is_in_its_line(said: io.StringIO) -> None:
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("server.http.border").exception("request %s failed", "r1")
    (line,) = lines(said)
    assert (line["event"], line["level"], line["id"]) == ("request.failed", "error", "r1")
    assert line["exception"].endswith("KeyError: 'lost'")


def test_libraries_are_lines_too(said: io.StringIO) -> None:
    """Python's warnings included, which would else be text."""
    logging.getLogger("uvicorn.error").error("%s", "bad")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = lines(said)
    assert (first["event"], first["logger"], first["message"]) == (OTHER, "uvicorn.error", "bad")
    assert (second["event"], second["logger"]) == (OTHER, "py.warnings")


def test_a_library_with_a_handler_of_its_own(said: io.StringIO) -> None:
    """vLLM, say, in an engine's process."""
    library = logging.getLogger("a library of a test")
    library.propagate = False
    library.addHandler(logging.StreamHandler(said))
    logs.speak_json("a library of a test")
    library.warning("it is %s", "warm")
    (line,) = lines(said)
    assert (line["event"], line["message"]) == (OTHER, "it is warm")


def test_text_is_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the setting a request's line is its fields."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("info")
        assert not logs.is_json()
        logs.log_request(id="r1", status=200, seconds=1.5, user="a b")
    finally:
        root.handlers, root.level = handlers, level
    assert capsys.readouterr().err.endswith("INFO    id=r1 status=200 seconds=1.500 user='a b'\n")
