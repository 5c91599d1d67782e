"""`verbatim journal`: what it prints of a journal's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import cli
from server.commands.replay import body_of, compare
from server.errors import ConfigurationError
from server.journal.entry import Candidate, Entry, Fault, encode
from server.journal.files import CURRENT

ENTRIES = [
    Entry("a1", "2026-11-26T10:00:00.000Z", "anna", "m", 200, 1.5, 10, 5, 4, first_s=0.25),
    Entry("a2", "2026-11-27T10:00:00.000Z", "anna", "m", 429, 0.01, reason="RATE_LIMIT_EXCEEDED"),
    Entry("b1", "2026-11-27T11:00:00.000Z", "berta", "m", 200, 2.0, 3, 7, adapter="poet", trace="4bf92f35"),
]
ENTRIES[0].candidates = [Candidate(5, "stop", 0)]
ENTRIES[2].candidates = [Candidate(7, "length", 0), Candidate(0, None)]
ENTRIES[2].faults = [Fault(0, 1, "signal 9", 0.5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CURRENT).write_bytes(b"".join(encode(entry) + b"\n" for entry in ENTRIES) + b'{"id":"a3"')
    return tmp_path


def run(*words: str | Path, code: int = 0) -> tuple[str, str]:
    """What it says on standard output and standard error."""
    result = CliRunner().invoke(cli, ["journal", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_a_table(folder: Path) -> None:
    """A line each, the oldest first; a damaged line is told of."""
    out, err = run("--from", folder)
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "time key model status finish prompt completion first s total s faults id",
        "2026-11-26 10:00:00.000 anna m 200 stop 10 5 0.250 1.500 a1",
        "2026-11-27 10:00:00.000 anna m 429 RATE_LIMIT_EXCEEDED 0 0 0.010 a2",
        "2026-11-27 11:00:00.000 berta poet 200 length,- 3 7 2.000 1 b1",
    ]
    assert err == "verbatim: ignored lines that are not records: 1\n"


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ((), ["a1", "a2", "b1"]),
        (("--since", "2026-11-27"), ["a2", "b1"]),
        (("--until", "2026-11-27T10:30"), ["a1", "a2"]),
        (("--key", "anna", "--status", "4xx"), ["a2"]),
        (("--model", "poet"), ["b1"]),
        (("--finish", "stop"), ["a1"]),
        (("--id", "a"), ["a1", "a2"]),
        (("--faults",), ["b1"]),
        (("--trace", "4bf9"), ["b1"]),
    ],
)
def test_records_as_they_are(folder: Path, words: tuple[str, ...], ids: list[str]) -> None:
    """With --json, those that the filters take, byte for byte."""
    out, _ = run("--from", folder, "--json", *words)
    assert out == "".join(encode(entry).decode() + "\n" for entry in ENTRIES if entry.id in ids)


def test_usage_as_csv(folder: Path) -> None:
    out, _ = run("usage", "--from", folder, "--csv")
    assert out.splitlines() == [
        "day,key,model,requests,errors,prompt_tokens,cached_tokens,completion_tokens",
        "2026-11-26,anna,m,1,0,10,4,5",
        "2026-11-27,anna,m,1,1,0,0,0",
        "2026-11-27,berta,poet,1,0,3,0,7",
    ]


def test_usage_as_a_table(folder: Path) -> None:
    out, _ = run("usage", "--from", folder, "--key", "anna")
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [
        ["2026-11-26", "anna", "m", "1"],
        ["2026-11-27", "anna", "m", "1"],
    ]


def test_the_configuration_says_where(folder: Path, tmp_path: Path) -> None:
    """Its journal's path; one without a journal is told how to say it."""
    file = tmp_path / "models.yaml"
    file.write_text(json.dumps({"models": [{"id": "m", "path": "."}], "journal": {"path": "."}}))
    assert run("--config", file, "--json") == run("--from", folder, "--json")
    file.write_text(json.dumps({"models": [{"id": "m", "path": "."}]}))
    assert "no journal; name one with --from" in run("--config", file, code=2)[1]


def test_what_cannot_be_replayed(folder: Path) -> None:
    """A prompt that was not kept, an id that is nobody's, or several's."""
    assert "the journal did not record its prompt" in run("replay", "b1", "--from", folder, code=2)[1]
    assert "no request whose id begins with x" in run("replay", "x", "--from", folder, code=2)[1]
    assert "2 requests have ids that begin with a" in run("replay", "a", "--from", folder, code=2)[1]


def kept() -> Entry:
    one = Entry("c", "2026-11-27T10:00:00.000Z", "anna", "m", 200, 1.5, 2, 3)
    one.params = {"max_tokens": 16, "temperature": 1.0, "seed": 7}
    one.request = {"model": "m", "prompt": "hi", "temperature": 0.5, "stream": True, "stream_options": {}}
    one.candidates = [Candidate(3, "stop", 0, None, "abcd")]
    return one


def test_what_is_sent_again() -> None:
    """The client's fields before the values in force, with the seed that was drawn; not as a stream."""
    assert body_of(kept()) == {
        "model": "m", "prompt": "hi", "temperature": 0.5, "max_tokens": 16, "seed": 7,
    }  # fmt: skip


def test_what_was_redacted_is_not_sent() -> None:
    """It is not what was asked; a text that was redacted hinders nothing."""
    one = kept()
    one.redacted = ["text", "user"]
    assert body_of(one)
    one.redacted.append("prompt")
    with pytest.raises(ConfigurationError, match=r"was redacted \(prompt\)"):
        body_of(one)


def test_a_reply_is_compared() -> None:
    """Text, end and tokens; what differs is shown from there on."""
    one = kept()
    reply = {
        "choices": [{"index": 0, "text": "abcd", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3},
    }
    assert [same for same, _ in compare(one, reply)] == [True, True]
    reply["choices"][0]["text"] = "abXY"  # type: ignore[index]
    reply["usage"]["completion_tokens"] = 4  # type: ignore[call-overload]
    assert compare(one, reply) == [
        (False, "choice 0: differs from character 2 on: 'XY'; recorded: 'cd'"),
        (False, "tokens: 2 + 4; recorded: 2 + 3"),
    ]
    one.candidates[0].text = None
    assert compare(one, reply)[0] == (
        True, "choice 0: ends with stop, as recorded; its text was not kept, so it is not compared",
    )  # fmt: skip
    reply["choices"][0]["finish_reason"] = "length"  # type: ignore[index]
    assert compare(one, reply)[0] == (False, "choice 0: ends with length; recorded: stop")
