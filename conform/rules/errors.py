"""Failures: the body's shape, keys, models and routes."""

from __future__ import annotations

from conform.rules import table
from conform.subject.ends import require, shown
from conform.subject.frames import object_of
from conform.subject.refusal import failed, message_of
from conform.subject.rule import rule
from conform.subject.server import Subject

FLAT = {"openai": "the body is only an error object", "vllm": "the body is only an error object"}
ERROR_KEYS = {"message", "type", "param", "code"}


@rule("errors.envelope", requests=1, tokens=26, differs=FLAT)
def envelope(subject: Subject) -> None:
    """The body is flat: code, reason, message, metadata; code equals the status."""
    response = subject.ask(max_tokens=1, top_p=9)
    require(response.status_code == 400, f"{response.status_code}: {shown(response.text)}")
    body = object_of(response.text)
    require({"code", "reason", "message", "metadata"} <= set(body), f"keys {sorted(body)}")
    require(body["code"] == 400, f"code is {body['code']!r}")
    require(body["metadata"] == {"field": "top_p"}, f"metadata is {shown(body['metadata'])}")


@rule("errors.object", requests=1, tokens=26)
def error_object(subject: Subject) -> None:
    """An `error` object has message, type, param and code, for SDKs that read only that."""
    response = subject.ask(max_tokens=1, top_p=9)
    require(response.status_code == 400, f"{response.status_code}: {shown(response.text)}")
    inner = object_of(response.text).get("error")
    require(isinstance(inner, dict) and set(inner) >= ERROR_KEYS, f"error is {shown(inner)}")


@rule("errors.same-words-in-both", requests=1, tokens=26, differs=FLAT)
def same_words_in_both(subject: Subject) -> None:
    """The object has the same content as the envelope: message, the field as `param`, the
    reason as `code`."""
    body = object_of(subject.ask(max_tokens=1, top_p=9).text)
    inner = body.get("error") or {}
    seen = (inner.get("message"), inner.get("param"), inner.get("code"))
    wanted = (body.get("message"), (body.get("metadata") or {}).get("field"), body.get("reason"))
    require(seen == wanted, f"{shown(seen)} is not {shown(wanted)}")


@rule(
    "errors.message-has-value-and-range",
    requests=1,
    tokens=26,
    differs={"openai": "with other messages", "vllm": "with other messages"},
)
def message_has_value_and_range(subject: Subject) -> None:
    """The message names field, value and allowed range."""
    message = message_of(subject.ask(max_tokens=1, temperature=9))
    wanted = "temperature (current value: 9) must be between 0 and 2"
    require(message == wanted, f"it is {shown(message)}")


@rule("errors.json", requests=1, tokens=26)
def is_json(subject: Subject) -> None:
    """A failure's content type is application/json."""
    kind = subject.ask(max_tokens=1, top_p=9).headers.get("content-type", "")
    require(kind.partition(";")[0] == "application/json", f"content type {kind!r}")


NO_KEYS = {"vllm": "a server without an API key does not ask for one"}
MALFORMED = ("", "Bearer", "KEY", "Basic a2V5", "Bearer KEY x")


@rule("errors.no-key", requests=2, tokens=16, differs=NO_KEYS)
def no_key(subject: Subject) -> None:
    """A request without an Authorization header is a 401, for completions and for models."""
    headers = {"authorization": None}
    body = subject.body(**table.BASE)
    failed(subject, subject.client.post(body, headers=headers), 401, "INVALID_API_KEY")
    failed(subject, subject.client.get("/models", headers=headers), 401, "INVALID_API_KEY")


@rule("errors.malformed-key", requests=len(MALFORMED), tokens=16, differs=NO_KEYS)
def malformed_key(subject: Subject) -> None:
    """An Authorization header that is not `Bearer KEY` is a 401."""
    for header in MALFORMED:
        sent = {"authorization": header.replace("KEY", subject.client.key)}
        response = subject.client.post(subject.body(**table.BASE), headers=sent)
        require(response.status_code == 401, f"{header!r}: {response.status_code}")
        failed(subject, response, 401, "INVALID_API_KEY")


@rule("errors.wrong-key", requests=2, tokens=16)
def wrong_key(subject: Subject) -> None:
    """A wrong key is a 401, and the reply does not repeat it."""
    subject.need_key()
    wrong = subject.client.key + "x"
    headers = {"authorization": f"Bearer {wrong}"}
    response = subject.client.post(subject.body(**table.BASE), headers=headers)
    failed(subject, response, 401, "FAILED_TO_AUTH")
    require(wrong not in response.text, "the reply has the key in it")
    failed(subject, subject.client.get("/models", headers=headers), 401, "FAILED_TO_AUTH")


@rule("errors.unknown-model", requests=3, tokens=16)
def unknown_model(subject: Subject) -> None:
    """An unknown model is a 404, also if only its case, a space or a path differs."""
    for name in ("no-such-model", f"{subject.model} ", "../x"):
        response = subject.ask(**table.BASE, model=name)
        body = failed(subject, response, 404, "MODEL_NOT_FOUND")
        if subject.profile == "hosted":
            said = (body.get("metadata") or {}).get("reason")
            require(said == f"model: {name} not found", f"metadata.reason is {said!r}")


@rule(
    "errors.empty-model",
    requests=1,
    tokens=16,
    differs={"openai": "not documented", "vllm": "an empty name is the first model"},
)
def empty_model(subject: Subject) -> None:
    """An empty model name is a 404."""
    failed(subject, subject.ask(**table.BASE, model=""), 404, "MODEL_NOT_FOUND")


PLAIN_ROUTES = {"vllm": "the body is FastAPI's own"}


@rule("errors.unknown-route", requests=1, differs=PLAIN_ROUTES)
def unknown_route(subject: Subject) -> None:
    """An unknown route is a 404 with the same body as every error."""
    failed(subject, subject.client.get("/no-such-route"), 404, "NOT_FOUND")


@rule("errors.wrong-method", requests=2, differs=PLAIN_ROUTES)
def wrong_method(subject: Subject) -> None:
    """A wrong method is a 405 with the same body as every error."""
    failed(subject, subject.client.get("/completions"), 405, "METHOD_NOT_ALLOWED")
    failed(subject, subject.client.send("DELETE", "/models"), 405, "METHOD_NOT_ALLOWED")
