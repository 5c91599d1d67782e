"""Servers that break one rule: a right one, whose requests or replies are changed on their way.

MUTANTS has a mutation for each rule, by its id or a glob of ids; the first that fits counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from typing import Any

import httpx


@dataclass
class Exchange:
    """A request and its response, which a mutation changes. number: of the requests to this server."""

    number: int
    method: str
    sent: Any
    status: int
    headers: httpx.Headers
    text: str


Mutation = Callable[[Exchange], None]
DROPPED = {"content-length", "transfer-encoding", "connection"}


class Mutant(httpx.BaseTransport):
    """ignored: a field that never reaches the server. mutation: what becomes of each exchange."""

    def __init__(self, *, ignored: str = "", mutation: Mutation = lambda _: None) -> None:
        self._inner = httpx.HTTPTransport()
        self._numbers = count()
        self._ignored = ignored
        self._mutation = mutation

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            sent = json.loads(request.content)
        except ValueError:
            sent = None
        if isinstance(sent, dict) and self._ignored in sent:
            sent.pop(self._ignored)
            headers = httpx.Headers(request.headers)
            del headers["content-length"]
            request = httpx.Request(request.method, request.url, headers=headers, json=sent)
        response = self._inner.handle_request(request)
        response.read()
        headers = httpx.Headers([pair for pair in response.headers.items() if pair[0] not in DROPPED])
        exchange = Exchange(
            next(self._numbers), request.method, sent, response.status_code, headers, response.text
        )
        self._mutation(exchange)
        return httpx.Response(exchange.status, headers=exchange.headers, content=exchange.text.encode())

    def close(self) -> None:
        self._inner.close()


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a server."""

    ignored: str = ""
    mutation: Mutation = field(default=lambda _: None)

    def transport(self) -> Mutant:
        return Mutant(ignored=self.ignored, mutation=self.mutation)


def ignores(name: str) -> Wrong:
    return Wrong(ignored=name)


def status(into: int, where: Callable[[Exchange], bool] = lambda _: True) -> Wrong:
    def change(exchange: Exchange) -> None:
        if where(exchange):
            exchange.status = into

    return Wrong(mutation=change)


def header(name: str, value: str | None) -> Wrong:
    def change(exchange: Exchange) -> None:
        exchange.headers.pop(name, None)
        if value is not None:
            exchange.headers[name] = value

    return Wrong(mutation=change)


def text(change: Callable[[str], str]) -> Wrong:
    """Of a stream, or of a body, as it is."""

    def changed(exchange: Exchange) -> None:
        exchange.text = change(exchange.text)

    return Wrong(mutation=changed)


def body(change: Callable[[dict[str, Any], Exchange], Any]) -> Wrong:
    """Of a JSON object, or of each chunk of a stream."""

    def one(match: re.Match[str], exchange: Exchange) -> str:
        value = json.loads(match[1])
        change(value, exchange)
        return f"data: {json.dumps(value)}"

    def changed(exchange: Exchange) -> None:
        if exchange.text.startswith("data: "):
            exchange.text = re.sub(r"data: (\{.*\})", lambda match: one(match, exchange), exchange.text)
        elif exchange.text.startswith("{"):
            value = json.loads(exchange.text)
            change(value, exchange)
            exchange.text = json.dumps(value)

    return Wrong(mutation=changed)


def choice(change: Callable[[dict[str, Any], Exchange], Any]) -> Wrong:
    """Of every choice."""

    def each(value: dict[str, Any], exchange: Exchange) -> None:
        for part in value.get("choices", []):
            change(part, exchange)

    return body(each)


def logprobs(change: Callable[[dict[str, Any], Exchange], Any]) -> Wrong:
    """Of every choice's, where it has any."""
    return choice(lambda part, exchange: part["logprobs"] and change(part["logprobs"], exchange))


def _usage(value: dict[str, Any], _: Exchange) -> None:
    for name in value.get("usage") or {}:
        value["usage"][name] += 1


def _drop_last(arrays: dict[str, Any], _: Exchange) -> None:
    arrays["text_offset"].pop()


def _all_shorter(arrays: dict[str, Any], _: Exchange) -> None:
    for values in arrays.values():
        values.pop(0)


def _less_likely(arrays: dict[str, Any], exchange: Exchange) -> None:
    by = 0.1 * exchange.number
    arrays["token_logprobs"] = [value and value - by for value in arrays["token_logprobs"]]
    for top in arrays["top_logprobs"]:
        for name in top or {}:
            top[name] -= by


def _last_bit(arrays: dict[str, Any], _: Exchange) -> None:
    arrays["token_logprobs"] = [value and value * (1 - 1e-9) for value in arrays["token_logprobs"]]


def _more_entries(arrays: dict[str, Any], _: Exchange) -> None:
    for top in arrays["top_logprobs"]:
        (top or {}).update({f"more {i}": -30.0 for i in range(3)})


def _unspelled(arrays: dict[str, Any], _: Exchange) -> None:
    arrays["tokens"] = ["\ufffd" if name.startswith("bytes:") else name for name in arrays["tokens"]]


def _offsets(arrays: dict[str, Any], _: Exchange) -> None:
    arrays["text_offset"] = [offset + 1 for offset in arrays["text_offset"]]


def _reversed(value: dict[str, Any], exchange: Exchange) -> None:
    if "choices" in value and len(value["choices"]) > 1 and "best_of" in (exchange.sent or {}):
        texts = [(part["text"], part["logprobs"]) for part in value["choices"]]
        for part, (words, arrays) in zip(value["choices"], reversed(texts), strict=True):
            part["text"], part["logprobs"] = words, arrays


def _set(name: str, value: Any) -> Wrong:
    return body(lambda whole, _: whole.__setitem__(name, value))


def _without(name: str) -> Wrong:
    return body(lambda whole, _: whole.pop(name, None))


def _drift(part: dict[str, Any], exchange: Exchange) -> None:
    part["text"] += f" {exchange.number} {part['index']}"


def _other_prompt_ids(part: dict[str, Any], exchange: Exchange) -> None:
    part["prompt_token_ids"] = [exchange.number]


def _other_ids(part: dict[str, Any], exchange: Exchange) -> None:
    part["token_ids"] = [exchange.number]


def _own_parents(value: dict[str, Any], _: Exchange) -> None:
    for entry in value.get("data", ()):
        if "parent" in entry:
            entry["parent"] = entry["id"]


def _streamed(part: dict[str, Any], exchange: Exchange) -> None:
    if exchange.sent.get("stream"):
        part["text"] += "x"


ANSWERED = status(200)  # with whatever the refusal has said
REFUSED = status(400, lambda exchange: exchange.status == 200 and exchange.method == "POST")
DRIFT = choice(_drift)  # no text is the same twice
SAME = choice(lambda part, _: part.__setitem__("text", "same"))
MORE_TEXT = choice(lambda part, _: part.__setitem__("text", part["text"] + "x"))
STREAM_TEXT = choice(_streamed)
USAGE = body(_usage)
OTHER_WORDS = _set("message", "no")

MUTANTS: dict[str, Wrong] = {
    "values.*.accepted": REFUSED,
    "values.null-is-not-given": DRIFT,
    "values.max-tokens-default": USAGE,
    "values.user-is-not-shown": _set("user", "somebody-7"),
    "values.*": ANSWERED,
    "body.any-content-type": REFUSED,
    "body.compressed": REFUSED,
    "body.byte-order-mark": REFUSED,
    "body.*": ANSWERED,
    "prompts.text-or-array": DRIFT,
    "prompts.ids-or-array": DRIFT,
    "prompts.each-is-answered": DRIFT,
    "prompts.truncated-ids": ignores("truncate_prompt_tokens"),
    "prompts.truncated-on-the-right": ignores("truncation_side"),
    "prompts.special-tokens-are-added": choice(_other_prompt_ids),
    "prompts.special-tokens-are-text": ignores("parse_special"),
    "prompts.salt-changes-nothing": DRIFT,
    "prompts.empty-is-bos": status(500),
    "prompts.context-is-kept": ANSWERED,
    "prompts.too-long": ANSWERED,
    "prompts.suffix": ignores("suffix"),
    "prompts.*": USAGE,
    "reply.keys": _set("more", 1),
    "reply.no-error-key": _set("error", None),
    "reply.head": _set("model", "another"),
    "reply.id-form": _set("id", "cmpl-1"),
    "reply.ids-differ": _set("id", "0" * 32),
    "reply.usage-adds-up": USAGE,
    "reply.logprobs-null": choice(lambda part, _: part.__setitem__("logprobs", {})),
    "reply.json": header("content-type", "text/plain"),
    "reply.echo": ignores("echo"),
    "reply.special-tokens": ignores("skip_special_tokens"),
    "reply.token-ids": ignores("return_token_ids"),
    "reply.max-tokens-zero*": MORE_TEXT,
    "logprobs.four-arrays": logprobs(_drop_last),
    "logprobs.one-value": logprobs(_last_bit),
    "logprobs.k-or-one-more": logprobs(_more_entries),
    "logprobs.of-a-left-out-stop": ignores("include_stop_str_in_output"),
    "logprobs.zero": logprobs(_more_entries),
    "logprobs.tokens-are-the-text": MORE_TEXT,
    "logprobs.bytes-are-spelled": logprobs(_unspelled),
    "logprobs.text-offset": logprobs(_offsets),
    "logprobs.prompt-offsets": logprobs(_offsets),
    "logprobs.raw": logprobs(_less_likely),
    "logprobs.scores-are-the-completions": logprobs(_less_likely),
    "logprobs.of-named-tokens": ignores("logprob_token_ids"),
    "logprobs.*": logprobs(_all_shorter),
    "choices.n-differ": SAME,
    "choices.greedy-are-equal": DRIFT,
    "choices.by-prompt-and-rank": choice(lambda part, _: part.__setitem__("index", 3 - part["index"])),
    "choices.best-of-returns-the-likeliest": body(_reversed),
    "choices.best-of-within-each-prompt": body(_reversed),
    "choices.best-of-shows-no-logprobs": choice(lambda part, _: part.__setitem__("logprobs", {})),
    "choices.candidates": ignores("return_candidates"),
    "choices.seed-repeats": DRIFT,
    "choices.*": SAME,
    "sampling.bias-*": ignores("logit_bias"),
    "sampling.priority-changes-nothing": DRIFT,
    "structured.json-object": ignores("response_format"),
    "structured.json-schema": ignores("response_format"),
    "structured.bad-schemas": ANSWERED,
    "structured.*": ignores("structured_outputs"),
    "sampling.allowed-token-ids": ignores("allowed_token_ids"),
    "sampling.bad-words": ignores("bad_words"),
    "sampling.frequency-*": ignores("frequency_penalty"),
    "sampling.presence-penalty": ignores("presence_penalty"),
    "sampling.repetition-penalty": ignores("repetition_penalty"),
    "sampling.narrowest-is-greedy": ignores("top_p"),
    "sampling.top-k": ignores("top_k"),
    "sampling.top-p": ignores("top_p"),
    "sampling.min-p": ignores("min_p"),
    "sampling.min-p-after-temperature": ignores("temperature"),
    "sampling.temperature-spreads": ignores("temperature"),
    "sampling.min-tokens": ignores("min_tokens"),
    "stops.as-the-request-says": ignores("include_stop_str_in_output"),
    "stops.completion-alone": ignores("echo"),
    "stops.usage-to-the-stop": USAGE,
    "stops.length": choice(lambda part, _: part.__setitem__("finish_reason", "stop")),
    "stops.token-ids": ignores("stop_token_ids"),
    "stops.not-before-min-tokens": ignores("min_tokens"),
    "stops.*": ignores("stop"),
    "stream.frames": text(lambda stream: f"event: message\n{stream}"),
    "stream.done-is-last": text(lambda stream: stream.replace("data: [DONE]\n\n", "")),
    "stream.content-type": header("content-type", "text/plain"),
    "stream.no-buffering": header("cache-control", None),
    "stream.head-is-shared": body(lambda whole, _: whole.__setitem__("id", str(id(whole)))),
    "stream.keys": _set("more", 1),
    "stream.comes-as-it-is-made": text(lambda stream: stream),  # a mutant's replies come whole
    "stream.usage-on-the-last-chunk": _without("usage"),
    "stream.include-usage": _set("choices", []),
    "stream.usage-is-null-before": _without("usage"),
    "stream.include-usage-false": _set("usage", {"total_tokens": 1}),
    "stream.null-options": DRIFT,
    "stream.continuous-usage": _set("usage", {"completion_tokens": 6, "total_tokens": 9}),
    "stream.interval": ignores("stream_interval"),
    "stream.token-ids": choice(_other_ids),
    "stream.finishes-once": choice(lambda part, _: part.__setitem__("finish_reason", "stop")),
    "stream.refusal-has-its-status": ANSWERED,
    "stream.obfuscation-is-accepted": _set("obfuscation", "x"),
    "stream.*": STREAM_TEXT,
    "errors.envelope": _without("metadata"),
    "errors.object": _without("error"),
    "errors.same-words-in-both": OTHER_WORDS,
    "errors.message-has-value-and-range": OTHER_WORDS,
    "errors.json": header("content-type", "text/html"),
    "errors.unknown-route": text(lambda _: '{"detail": "Not Found"}'),
    "errors.wrong-method": text(lambda _: '{"detail": "Method Not Allowed"}'),
    "errors.*": ANSWERED,
    "http.prefixes": status(404),
    "http.request-id": header("x-request-id", None),
    "http.own-request-id": header("x-request-id", "0" * 32),
    "http.odd-request-id": header("x-request-id", "mine"),
    "http.head": status(405, lambda exchange: exchange.method == "HEAD"),
    "http.models": _without("object"),
    "http.model-entry": status(404),
    "http.models-hosted-fields": body(lambda whole, _: [one.update(more=1) for one in whole.get("data", [])]),
    "http.model-details": _set("vocab_size", 7),
    "http.tokenize-refuses": ANSWERED,
    "adapters.listed": body(_own_parents),
    "adapters.entry": _without("adapters"),
    "adapters.*": _set("model", "tests/twin"),
    "http.tokenize": _set("max_model_len", 7),
    "http.unknown-model-entry": ANSWERED,
    "http.*": DRIFT,
}


def mutant_of(rule_id: str) -> Wrong:
    return next(wrong for pattern, wrong in MUTANTS.items() if fnmatchcase(rule_id, pattern))
