"""What patterns find is not in a record, wherever a client wrote it."""

from __future__ import annotations

from server.journal.entry import Candidate, Entry
from server.journal.redaction import Redaction

MAIL, CARD = r"\S+@\S+", r"\d{16}"


def entry(**fields: object) -> Entry:
    return Entry("id", "2026-11-27T10:00:00.000Z", "anna", "m", 200, 0.1, **fields)  # type: ignore[arg-type]


def test_each_string_of_a_client_is_looked_through() -> None:
    """Prompts, stop sequences, schemas with their names, user; and what the model has said."""
    request = {
        "prompt": ["to a@b.c", "none"],
        "stop": "x@y.z",
        "max_tokens": 3,
        "response_format": {"schema": {"q@q.q": [{"const": "1234567890123456"}]}},
        "logit_bias": {"17": 1.0},
    }
    texts = [Candidate(1, text="mail a@b.c"), Candidate(1, text="fine"), Candidate(1)]
    found = Redaction([MAIL, CARD])(entry(request=request, user="u@v.w", candidates=texts))
    assert found.request == {
        "prompt": ["to [redacted]", "none"],
        "stop": "[redacted]",
        "max_tokens": 3,
        "response_format": {"schema": {"[redacted]": [{"const": "[redacted]"}]}},
        "logit_bias": {"17": 1.0},
    }
    assert [one.text for one in found.candidates] == ["mail [redacted]", "fine", None]
    assert found.user == "[redacted]"
    assert found.redacted == ["user", "prompt", "stop", "response_format", "text"]


def test_a_record_without_a_find_is_as_it_was() -> None:
    """And says that nothing was changed."""
    found = Redaction([MAIL])(entry(request={"prompt": [1, 2, 3]}, user="anna"))
    assert (found.request, found.redacted, found.user) == ({"prompt": [1, 2, 3]}, [], "anna")


def test_the_ids_of_the_server_stay() -> None:
    """By which the record is found."""
    found = Redaction([r"[a-z]+"])(entry())
    assert (found.id, found.key, found.model) == ("id", "anna", "m")
