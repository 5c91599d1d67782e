"""Exchanges as files: what is in them, what is not, and how one is found again."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ConfigurationError
from twin.recordings.exchange import Asked, End, Exchange, from_record, to_record
from twin.recordings.reading import NoRecording, Recordings, read_recordings
from twin.recordings.redaction import digest_of
from twin.recordings.writing import Recorder

KEY = "sk-abcdefgh"
HEADERS = (("authorization", f"Bearer {KEY}"), ("x-api-key", KEY), ("user-agent", "me"))


def asked(body: Any = None, path: str = "/v1/completions", query: str = "") -> Asked:
    data = body if isinstance(body, bytes) else json.dumps(body or {"prompt": "a", "seed": 1}).encode()
    return Asked("POST", path, query, HEADERS, data)


def exchange(request: Asked, *parts: bytes) -> Exchange:
    timed = [(0.1 * number, part) for number, part in enumerate(parts, 1)]
    return Exchange(request, 200, (("x-a", "1"), ("x-a", "2")), 0.05, timed, End.WHOLE)


def recorded(folder: Path, *exchanges: Exchange, redact_prompts: bool = False) -> Recordings:
    recorder = Recorder(folder, redact_prompts=redact_prompts)
    for one in exchanges:
        recorder.keep(one).result()
    return Recordings(read_recordings(folder))


@given(parts=st.lists(st.binary(max_size=20)), body=st.binary(max_size=20))
def test_record_is_read_as_it_was_written(parts: list[bytes], body: bytes) -> None:
    """Byte for byte, whatever they are; a request's body has the same meaning, if it is JSON."""
    one = exchange(asked(body or b"x"), *parts)
    text = json.dumps(to_record(one, "d", "now"), ensure_ascii=False).encode("utf-8")
    digest, read = from_record(json.loads(text))
    assert (digest, read.parts, read.headers, read.end) == (
        "d",
        [(round(at, 4), data) for at, data in one.parts],
        one.headers,
        one.end,
    )
    assert digest_of(read.asked) == digest_of(one.asked)


def test_file_is_for_people(tmp_path: Path) -> None:
    """Named by number, method and path; UTF-8 as it is, a body that is JSON as JSON."""
    recorded(tmp_path, exchange(asked({"prompt": "héllo ☃"}), "data: ☃\n\n".encode(), b"\xe2\x98"))
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("0001-POST-completions-")
    text = file.read_text("utf-8")
    assert '"prompt": "héllo ☃"' in text
    assert '"user-agent: me"' in text
    assert '"text": "data: ☃\\n\\n"' in text
    assert '"base64": "4pg="' in text


def test_key_is_nowhere(tmp_path: Path) -> None:
    """In no header, query or body, and not in a reply that repeats it, also across two parts."""
    one = exchange(
        asked({"prompt": "a", "key": KEY}, query=f"api_key={KEY}"), b"bad key sk-a", b"bcdefgh, Bearer!"
    )
    one.headers += (("set-cookie", "c=verysecret"),)
    found = recorded(tmp_path, one)
    (file,) = tmp_path.iterdir()
    assert not any(secret in file.read_text("utf-8") for secret in (KEY, "verysecret", "bcdef"))
    assert found.find(one.asked).body.decode() == "bad key …, Bearer!"


@pytest.mark.parametrize("name", ["authorization", "api-key", "X-Auth-Token"])
@pytest.mark.parametrize("value", [f"BEARER  {KEY}", f"Basic {KEY}", f"{KEY} "])
def test_key_is_taken_out_wherever_it_was_sent(tmp_path: Path, name: str, value: str) -> None:
    """In whichever header and form."""
    one = exchange(Asked("GET", "/v1/models", "", ((name, value),), b""), f"not {KEY}".encode())
    recorded(tmp_path, one)
    (file,) = tmp_path.iterdir()
    assert KEY not in file.read_text("utf-8")


def test_key_in_a_field_is_nowhere(tmp_path: Path) -> None:
    """At any depth of a JSON body, short or long, and not in a reply that repeats it."""
    body = {"api_key": "short", "max_tokens": 4, "extra": [{"x-Api-Key": [KEY]}, {"password": 'a "\u2603"'}]}
    one = exchange(Asked("POST", "/", "", (), json.dumps(body).encode()), f"not {KEY}".encode())
    found = recorded(tmp_path, one)
    (file,) = tmp_path.iterdir()
    text = file.read_text("utf-8")
    assert not any(secret in text for secret in (KEY, "short", "☃", "u2603"))
    assert found.find(one.asked).body.decode() == "not …"


def test_another_key_in_a_field_gets_the_same_recording(tmp_path: Path) -> None:
    """And where it has none, its key is not said to differ."""
    found = recorded(tmp_path, exchange(asked({"api_key": "mine", "seed": 1}), b"yes"))
    assert found.find(asked({"api_key": "another", "seed": 1})).body == b"yes"
    with pytest.raises(NoRecording, match=r"json, where seed is 1 there and 2 here$"):
        found.find(asked({"api_key": "another", "seed": 2}))


def test_field_for_a_key_in_a_schema_stays(tmp_path: Path) -> None:
    """It is no key."""
    body = {"schema": {"properties": {"api_key": {"type": "string"}}}}
    recorded(tmp_path, exchange(asked(body)))
    (recording,) = read_recordings(tmp_path)
    assert json.loads(recording.exchange.asked.body) == body


def test_body_that_is_too_deep_is_text(tmp_path: Path) -> None:
    """JSON of more than 254 levels can be read, and not be written."""
    request = asked(b"[" * 900 + b"]" * 900)
    assert recorded(tmp_path, exchange(request, b"yes")).find(request).body == b"yes"


def test_another_key_gets_the_same_recording(tmp_path: Path) -> None:
    """Whoever replays has not the key of who recorded."""
    found = recorded(tmp_path, exchange(asked(query=f"api_key={KEY}"), b"yes"))
    other = Asked("POST", "/v1/completions", "api_key=another", (), b'{"seed": 1,  "prompt":"a"}')
    assert found.find(other).body == b"yes"


def test_prompts_are_left_out_and_still_found_by(tmp_path: Path) -> None:
    """By a digest. An exchange whose reply repeats the prompt is not recorded at all."""
    secret, echoed = asked({"prompt": "in confidence"}), asked({"prompt": "confidential", "echo": True})
    found = recorded(
        tmp_path, exchange(secret, b"yes"), exchange(echoed, b"confidential"), redact_prompts=True
    )
    (file,) = tmp_path.iterdir()
    assert "confiden" not in file.read_text("utf-8")
    assert found.find(secret).body == b"yes"
    with pytest.raises(NoRecording, match="where prompt is redacted, and differs"):
        found.find(asked({"prompt": "another"}))


@pytest.mark.parametrize("field", [{"echo": True}, {"prompt_logprobs": 0}, {"return_token_ids": True}])
def test_reply_that_is_to_repeat_the_prompt_is_not_recorded(tmp_path: Path, field: dict[str, Any]) -> None:
    """Its pieces would not be found in the reply."""
    request = asked({"prompt": "confidential", **field})
    Recorder(tmp_path, redact_prompts=True).keep(exchange(request, b"con", b"fid")).result()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("body", "reply", "left"),
    [
        ({"prompt": 'a "ü"\nand more'}, {"input": 'a "ü"\nand more'}, {"input": "…"}),
        ({"prompt": ["first text", "second text"]}, {"input": ["second text"]}, {"input": ["…"]}),
        ({"prompt": [[11, 22, 33]]}, {"input": [11, 22, 33]}, {"input": []}),
        ({"prompt": f"it is {KEY}!"}, {"input": f"it is {KEY}!"}, {"input": "…"}),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "in confidence"}]}]},
            {"input": [{"role": "assistant", "content": "in confidence"}]},
            {"input": [{"role": "assistant", "content": "…"}]},
        ),
        (["in confidence"], {"input": ["in confidence"]}, {"input": ["…"]}),
    ],
)
@pytest.mark.parametrize("dump", [json.dumps, lambda value: orjson.dumps(value).decode()])
def test_prompt_is_left_out_of_a_reply(
    tmp_path: Path, body: Any, reply: Any, left: Any, dump: Callable[[Any], str]
) -> None:
    """That repeats it, as a 422 may: in JSON's notation, with or without escapes."""
    request, text = asked(json.dumps(body).encode()), dump({"detail": [reply]}).encode()
    found = recorded(tmp_path, exchange(request, text[:20], text[20:]), redact_prompts=True)
    assert json.loads(found.find(request).body) == {"detail": [left]}


def test_body_that_is_no_json_is_left_out_of_a_reply(tmp_path: Path) -> None:
    """All of it, as it may be a prompt."""
    request = asked(b"in confidence")
    found = recorded(tmp_path, exchange(request, b"not JSON: in confidence"), redact_prompts=True)
    assert found.find(request).body.decode() == "not JSON: …"


def test_body_that_is_no_json_is_left_out_whole(tmp_path: Path) -> None:
    """It may be a prompt all over."""
    recorded(tmp_path, exchange(asked(b"in confidence"), b""), redact_prompts=True)
    (file,) = tmp_path.iterdir()
    assert "confidence" not in file.read_text("utf-8")


def test_same_request_gets_its_recordings_in_turn(tmp_path: Path) -> None:
    """A 429 and then a 200, say; the last one again and again."""
    found = recorded(tmp_path, *(exchange(asked(), answer) for answer in (b"first", b"second")))
    assert [found.find(asked()).body for _ in range(3)] == [b"first", b"second", b"second"]


def test_notation_of_numbers_does_not_matter(tmp_path: Path) -> None:
    """Clients of other languages write other ones."""
    found = recorded(
        tmp_path, exchange(asked(b'{"temperature": 0, "n": [{"m": 1e2}], "big": 1e300}'), b"yes")
    )
    assert found.find(asked(b'{"temperature": 0.0, "n": [{"m": 100}], "big": 1.0e300}')).body == b"yes"


def test_kind_of_a_value_matters(tmp_path: Path) -> None:
    """True is not 1, and it is said that they differ."""
    found = recorded(tmp_path, exchange(asked({"stream": True})))
    with pytest.raises(NoRecording, match="where stream is true there and 1 here"):
        found.find(asked({"stream": 1}))


def test_numbers_go_on(tmp_path: Path) -> None:
    """A folder may be recorded to again."""
    for _ in range(2):
        recorded(tmp_path, exchange(asked()))
    assert sorted(file.name[:5] for file in tmp_path.iterdir()) == ["0001-", "0002-"]


def test_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a part of one, which nobody could read, and not a failure of the client's."""

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode(encoding)[:9])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_text", full)
    Recorder(tmp_path).keep(exchange(asked())).result()
    assert not [*tmp_path.iterdir()]


def test_others_are_answered_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one takes a while, and a slow disk too. It has its name when it is whole."""
    has_begun, may_go_on = threading.Event(), threading.Event()

    def slow(self: Path, target: Path) -> None:
        has_begun.set()
        assert may_go_on.wait(30)

    monkeypatch.setattr(Path, "replace", slow)
    writing = Recorder(tmp_path).keep(exchange(asked()))
    assert has_begun.wait(30)
    assert [file.suffix for file in tmp_path.iterdir()] == [".part"]
    may_go_on.set()
    writing.result()


def test_fault_while_a_file_is_written_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback: nobody waits for it."""
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 1 / 0)
    writing = Recorder(tmp_path).keep(exchange(asked()))
    assert isinstance(writing.exception(), ZeroDivisionError)
    deadline = time.monotonic() + 30
    while "ZeroDivisionError" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "ZeroDivisionError" in caplog.text


def test_missing_one_names_the_nearest(tmp_path: Path) -> None:
    """And how that one differs."""
    found = recorded(
        tmp_path,
        exchange(asked({"prompt": "b", "seed": 2, "n": 1})),
        exchange(asked({"prompt": "a", "seed": 3})),
        exchange(asked(path="/v1/other")),
    )
    with pytest.raises(NoRecording) as failure:
        found.find(asked({"prompt": "a", "seed": 1, "stop": "x"}))
    assert failure.value.metadata["nearest"].startswith("0002-")
    assert failure.value.message.endswith(
        'where seed is 3 there and 1 here; stop is not set there and "x" here'
    )
    with pytest.raises(NoRecording, match='where the path is "/v1/other" there and "/v1/another" here'):
        Recordings(read_recordings(tmp_path)[2:]).find(asked(path="/v1/another"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not a recording: "),
        ("[" * 100_000, "is not a recording: "),
        ("[]", "is not a recording: "),
        ("{}", "it has no version"),
        ('{"version": 2}', "has version 2"),
        ('{"version": 1, "request": 1}', "request must be an object, not 1"),
    ],
)
def test_file_that_is_none_is_named(tmp_path: Path, text: str, words: str) -> None:
    """With what is wrong."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"x\.json") as failure:
        read_recordings(tmp_path)
    assert words in failure.value.message


@pytest.mark.parametrize(
    ("side", "field", "value", "words"),
    [
        ("request", "method", 1, "method must be text, not 1"),
        ("request", "digest", ["x"], 'digest must be text, not ["x"]'),
        ("request", "headers", {"a": "b"}, 'headers must be a list, not {"a": "b"}'),
        ("request", "headers", [["a", "b"]], 'a header must be "name: value"'),
        ("response", "headers", ["a"], 'a header must be "name: value"'),
        ("response", "headers", ["a b: c"], 'a header must be "name: value"'),
        ("response", "headers", ["a: b\r\nc: d"], "one line, not"),
        ("response", "headers", ["a: b\n"], "one line, not"),
        ("response", "headers", ["a: ☃"], "Latin-1"),
        ("response", "status", 99, "status must be from 100 to 599, not 99"),
        ("response", "status", 600, "status must be from 100 to 599, not 600"),
        ("response", "status", "200", 'status must be an integer, not "200"'),
        ("response", "status", True, "status must be an integer, not true"),
        ("response", "after_s", float("nan"), "after_s must be a number of seconds, at least 0, not nan"),
        ("response", "after_s", float("inf"), "after_s must be a number of seconds, at least 0, not inf"),
        ("response", "after_s", -1, "after_s must be a number of seconds, at least 0, not -1"),
        pytest.param("response", "after_s", 10**400, "too large", id="huge"),
        ("response", "parts", [1], "1 must be an object with after_s"),
        ("response", "parts", [{"after_s": "1"}], 'after_s must be a number, not "1"'),
        ("response", "parts", [{"after_s": 1}], "a body needs one of json, text and base64"),
        ("response", "parts", [{"after_s": 1, "text": 1}], "text must be text, not 1"),
        ("response", "parts", [{"after_s": 1, "base64": "a"}], "is not a recording: "),
        ("response", "end", "never", "'never' is not a valid End"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, side: str, field: str, value: Any, words: str) -> None:
    """When it is read, before anything is answered."""
    recorded(tmp_path, exchange(asked(), b"yes"))
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text("utf-8"))
    record[side][field] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigurationError) as failure:
        read_recordings(tmp_path)
    assert failure.value.message.startswith(f"{file} is not a recording: ")
    assert words in failure.value.message


@pytest.mark.parametrize("value", ["", "é", "…", f"a {KEY} b", "a: b"])
def test_headers_are_read_as_they_were_written(tmp_path: Path, value: str) -> None:
    """Also one with something left out, or nothing in it."""
    one = exchange(asked())
    one.headers = (("x-a", value),)
    recorded(tmp_path, one)
    (recording,) = read_recordings(tmp_path)
    assert recording.exchange.headers == (("x-a", value.replace(KEY, "…")),)


def test_no_recordings_are_an_error(tmp_path: Path) -> None:
    """That says how they are made."""
    with pytest.raises(ConfigurationError, match="--record"):
        read_recordings(tmp_path)


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Before anything is asked."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot record in"):
        Recorder(tmp_path / "file" / "folder")
