"""HTTP around the requests: prefixes, request ids, the list of models, many clients."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from conform.rules import table
from conform.rules.errors import PLAIN_ROUTES
from conform.subject.address import PREFIXES, root_of
from conform.subject.client import reply_of
from conform.subject.ends import require, shown
from conform.subject.refusal import failed
from conform.subject.rule import rule
from conform.subject.server import PROMPT, UNKNOWN_ID, Subject

V1_ALONE = {"openai": "everything is under /v1", "vllm": "everything is under /v1"}
FIELDS = {
    "id", "object", "created", "owned_by", "title", "description", "context_size",
    "input_token_price_per_m", "output_token_price_per_m",
}  # fmt: skip
MANY = 64
NO_TOKENIZE = {"openai": "there is no such route", "vllm": "/tokenize and /detokenize are not under /v1"}


@rule("http.prefixes", requests=3 * len(PREFIXES), tokens=30 * len(PREFIXES), differs=V1_ALONE)
def prefixes(subject: Subject) -> None:
    """The hosted prefixes and `/v1` lead to the same routes."""
    root, texts = root_of(subject.client.base), set()
    body = subject.body(max_tokens=1, temperature=0)
    for prefix in PREFIXES:
        reply = reply_of(subject.client.post(body, path=f"{root}{prefix}/completions"))
        texts.add(reply["choices"][0]["text"])
        for path in ("/models", f"/models/{quote(subject.model)}"):
            status = subject.client.get(root + prefix + path).status_code
            require(status == 200, f"GET {prefix}{path} is {status}")
    require(len(texts) == 1, f"texts {shown(sorted(texts))}")


@rule("http.request-id", requests=3, tokens=52, differs={"vllm": "only with --enable-request-id-headers"})
def request_id(subject: Subject) -> None:
    """`x-request-id` is on every response, errors included."""
    responses = (
        subject.ask(max_tokens=1),
        subject.ask(top_p=9, max_tokens=0),
        subject.client.get("/no-such-route"),
    )
    for response in responses:
        require(response.headers.get("x-request-id"), f"none on a {response.status_code}")


@rule(
    "http.own-request-id",
    requests=3,
    differs={
        "openai": "X-Client-Request-Id is another header",
        "vllm": "only with --enable-request-id-headers",
    },
)
def own_request_id(subject: Subject) -> None:
    """The client's own id comes back, if it is at most 128 printable ASCII characters."""
    for own in ("my-id 7", "x" * 128, "~!"):
        seen = subject.client.get("/models", headers={"x-request-id": own}).headers.get("x-request-id")
        require(seen == own, f"{shown(own)} comes back as {seen!r}")


@rule(
    "http.odd-request-id",
    requests=3,
    differs={"openai": "not documented", "vllm": "only with --enable-request-id-headers"},
)
def odd_request_id(subject: Subject) -> None:
    """Any other client's id is replaced by one of the server's."""
    for own in ("x" * 129, "tab\there", "ümlaut".encode()):
        seen = subject.client.get("/models", headers={"x-request-id": own}).headers.get("x-request-id", "")
        require(re.fullmatch("[0-9a-f]{32}", seen), f"{shown(own)} is answered with {seen!r}")


def _post(subject: Subject, path: str, **fields: Any) -> dict[str, Any]:
    response = subject.client.send("POST", path, json={"model": subject.model} | fields)
    require(response.status_code == 200, f"POST …{path} is {response.status_code}: {shown(response.text)}")
    return dict(response.json())


@rule("http.head", requests=2, differs={"openai": "not documented", "vllm": "HEAD is a 405"})
def head(subject: Subject) -> None:
    """HEAD is answered wherever GET is, with the same status and no body."""
    for method in ("GET", "HEAD"):
        response = subject.client.send(method, "/models")
        require(response.status_code == 200, f"{method} is {response.status_code}")
    require(not response.content, f"HEAD has a body: {shown(response.text)}")


@rule("http.models", requests=1)
def models(subject: Subject) -> None:
    """`GET …/models` is a list of entries, each with id, object, created and owned_by."""
    listed = subject.client.get("/models").json()
    require(listed.get("object") == "list", f"object is {listed.get('object')!r}")
    for entry in listed["data"]:
        missing = {"id", "object", "created", "owned_by"} - set(entry)
        require(not missing and entry["object"] == "model", f"an entry is {shown(entry)}")


@rule("http.model-entry", requests=2)
def model_entry(subject: Subject) -> None:
    """`GET …/models/{id}` equals the entry in the list, also if the id has slashes."""
    listed = subject.client.get("/models").json()["data"]
    entries = [entry for entry in listed if entry["id"] == subject.model]
    require(entries, f"{subject.model} is not in the list")
    response = subject.client.get(f"/models/{quote(subject.model)}")
    require(response.status_code == 200, f"GET …/models/{subject.model} is {response.status_code}")
    require(entries[0].items() <= response.json().items(), f"{shown(response.text)}, {shown(entries[0])}")


@rule(
    "http.models-hosted-fields",
    requests=1,
    differs={
        "openai": "id, object, created, owned_by",
        "vllm": "id, object, created, owned_by, max_model_len, …",
    },
)
def models_hosted_fields(subject: Subject) -> None:
    """A list entry has the fields of the hosted service and of OpenAI; prices are 0."""
    entry = subject.client.get("/models").json()["data"][0]
    require(set(entry) == FIELDS, f"keys {sorted(entry)}")
    prices = (entry["input_token_price_per_m"], entry["output_token_price_per_m"])
    require(prices == (0, 0), f"prices {prices}")
    require(abs(entry["created"] - time.time()) < 10**9, f"created is {entry['created']!r}")


@rule(
    "http.model-details",
    requests=1,
    differs={"openai": "id, object, created, owned_by", "vllm": "nothing of the vocabulary"},
)
def model_details(subject: Subject) -> None:
    """`GET …/models/{id}` gives the vocabulary's size, the special tokens, and those that end a text."""
    entry = subject.client.get(f"/models/{quote(subject.model)}").json()
    size, special = entry["vocab_size"], entry["special_tokens"]
    require(subject.vocab_size in (None, size), f"vocab_size is {size}, not {subject.vocab_size}")
    ids = [*entry["eos_token_ids"], *special.values(), entry["bos_token_id"] or 0]
    require(all(0 <= one < size for one in ids), f"ids {shown(ids)} of {size}")


@rule("http.tokenize", requests=4, tokens=60, differs=NO_TOKENIZE)
def tokenize(subject: Subject) -> None:
    """`POST …/tokenize` returns the tokens of a prompt, and `…/detokenize` their text."""
    told = _post(subject, "/tokenize", prompt=PROMPT, return_token_strs=True, return_token_offsets=True)
    count = subject.complete(max_tokens=1)["usage"]["prompt_tokens"]
    require(told["count"] == len(told["tokens"]) == count, f"{shown(told)} for {count} tokens")
    require(subject.context_size in (None, told["max_model_len"]), f"max_model_len {told['max_model_len']}")
    require(len(told["token_strs"]) == len(told["token_offsets"]) == count, shown(told))
    covered = "".join(PROMPT[start:end] for start, end in told["token_offsets"])
    require(covered == PROMPT, f"the places of its tokens are of {shown(covered)}")
    plain = _post(subject, "/tokenize", prompt=PROMPT, add_special_tokens=False)
    require(plain["token_strs"] is None and "token_offsets" not in plain, shown(plain))
    text = _post(subject, "/detokenize", tokens=plain["tokens"])
    require(text == {"prompt": PROMPT}, shown(text))


WRONG_TOKENS: tuple[tuple[str, str, Any], ...] = (
    ("/tokenize", "prompt", [5]),
    ("/tokenize", "add_special_tokens", 1),
    ("/detokenize", "tokens", "a"),
    ("/detokenize", "tokens", [-1]),
    ("/detokenize", "tokens", [UNKNOWN_ID]),
)


@rule("http.tokenize-refuses", requests=len(WRONG_TOKENS), differs=NO_TOKENIZE)
def tokenize_refuses(subject: Subject) -> None:
    """An invalid prompt or token id is a 400 there too, which names the field."""
    good: dict[str, dict[str, Any]] = {"/tokenize": {"prompt": PROMPT}, "/detokenize": {"tokens": [300]}}
    for path, field, value in WRONG_TOKENS:
        body = {"model": subject.model} | good[path] | {field: value}
        response = subject.client.send("POST", path, json=body)
        failure = failed(subject, response, 400, "INVALID_REQUEST_BODY")
        require(failure["metadata"].get("field") == field, f"{path}, {field}: {shown(failure)}")


@rule("http.unknown-model-entry", requests=1, differs=PLAIN_ROUTES)
def unknown_model_entry(subject: Subject) -> None:
    """The entry of an unknown model is a 404."""
    failed(subject, subject.client.get("/models/no-such/model"), 404, "MODEL_NOT_FOUND")


@rule("http.goes-on-after-errors", requests=3, tokens=40)
def goes_on_after_errors(subject: Subject) -> None:
    """An error does not affect the next request on the same connection."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 2}
    before = subject.choices(**asked)
    subject.ask(top_p=9, max_tokens=0)
    after = subject.choices(**asked)
    require(before == after, f"{shown(after)}, and {shown(before)} before")


@rule("http.many-at-once", requests=MANY + 1, tokens=20 * (MANY + 1), hard=True)
def many_at_once(subject: Subject) -> None:
    """64 simultaneous requests each get their own answer, or are told to retry (429, 503)."""
    asked: dict[str, Any] = {**table.BASE, "temperature": 0, "max_tokens": 4}
    text = subject.choice(**asked)["text"]
    with ThreadPoolExecutor(MANY) as pool:
        responses = list(pool.map(lambda _: subject.ask(**asked), range(MANY)))
    wrong = [response.status_code for response in responses if response.status_code not in (200, 429, 503)]
    require(not wrong, f"statuses {shown(wrong)}")
    texts = {
        reply_of(response)["choices"][0]["text"] for response in responses if response.status_code == 200
    }
    require(texts == {text}, f"texts {shown(sorted(texts))}, not {shown(text)}")
