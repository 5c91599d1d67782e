"""The names of faults in text, and what is said of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twin.faults.answers import Status
from twin.faults.catalog import ALL, described, parse, sentence
from twin.faults.fault import Fault
from twin.faults.pace import OneByte, Stall


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stall=2s after=3", Stall(seconds=2, after=3)),
        ("stall=2s,after=3", Stall(seconds=2, after=3)),
        (" stall seconds=2 , after=3 ", Stall(seconds=2, after=3)),
        ("stall=500ms", Stall(seconds=0.5)),
        ("stall=1m", Stall(seconds=60)),
        ("one_byte", OneByte()),
        ("status=429 retry_after=3", Status(code=429, retry_after=3)),
    ],
)
def test_a_fault_in_text(text: str, fault: Fault) -> None:
    """A name, its first argument after it, others by name, with spaces or commas between them."""
    assert parse(text) == fault


@pytest.mark.parametrize("kind", ALL)
def test_the_example_of_a_fault(kind: type[Fault]) -> None:
    """Each is one that can be asked for."""
    assert type(parse(kind.example)) is kind


@pytest.mark.parametrize("kind", ALL)
def test_a_fault_says_what_it_is(kind: type[Fault]) -> None:
    """In one sentence; so does each of its arguments."""
    assert sentence(kind).endswith(".")
    assert ". " not in sentence(kind)
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stal=2s", 'there is no fault "stal"; did you mean "stall"?'),
        ("qqq", 'there is no fault "qqq"; known are status, html, redirect, refuse,'),
        ("", 'there is no fault ""; known are status,'),
        ("stall=2s aftr=3", 'stall has no argument "aftr"; did you mean "after"?'),
        ("stall=2s x=3", 'stall has no argument "x"; known are seconds, after.'),
        ("stall=2s after", "stall: after needs a value, as after=VALUE."),
        ("stall=2s seconds=3", "stall: seconds is given twice."),
        ("stall", "stall: seconds is missing; for example stall=2s after=3"),
        ("stall=2x", 'stall: seconds is "2x"; it should be a time: 500ms, 2s or 1m, at most an hour.'),
        ("stall=61m", 'stall: seconds is "61m"; it should be a time: 500ms, 2s or 1m, at most an hour.'),
        ("no_done=3", "no_done has no arguments."),
        ("no_done after=3", "no_done has no arguments."),
        ("cut_in_frame=-1", 'cut_in_frame: after is "-1"; it should be greater than or equal to 0.'),
        ("status=418", 'status: code is "418"; it should be 400, 401, 403, 404, 405, 408, 413, 415, 429,'),
        ("status=404 reason=X", 'status: reason is "X"; with 404 it should be NOT_FOUND or MODEL_NOT_FOUND.'),
        ("redirect=200", 'redirect: code is "200"; it should be 301, 302, 303, 307 or 308.'),
        ("content_type=é", 'content_type: type is "é"; it should be printable ASCII without spaces.'),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    """With the nearest name that there is, or all of them."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        parse(text)


def test_what_is_said_of_a_fault() -> None:
    """Name, description, arguments with their defaults, and an example."""
    (stall,) = (fault for fault in described() if fault["name"] == "stall")
    assert stall["description"].startswith("Sends nothing for a time before the first token")
    assert stall["arguments"] == [
        {"name": "seconds", "description": "how long", "required": True},
        {"name": "after", "description": "tokens that are sent before", "default": 0},
    ]
    assert stall["example"] == "stall=2s after=3"


@pytest.mark.parametrize("kind", ALL)
def test_each_fault_has_a_test(kind: type[Fault]) -> None:
    """Of its bytes: one that a test here asks a served application for."""
    files = (
        Path(__file__).with_name(f"test_{room}.py") for room in ("answers", "cuts", "edits", "pace", "ports")
    )
    tests = "".join(file.read_text("utf-8") for file in files)
    assert f'"{kind.name}' in tests
