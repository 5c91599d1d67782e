"""The stream: its frames, its chunks, its usage, and that it adds up to the reply."""

from __future__ import annotations

import re
from typing import Any

from conform.rules.stops import pieces
from conform.subject.client import reply_of
from conform.subject.ends import Unmet, require, shown
from conform.subject.frames import DONE, chunks_of, data_of, fold, object_of
from conform.subject.refusal import failed
from conform.subject.rule import rule
from conform.subject.server import PLAIN, Subject

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
TWO: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 1, "max_tokens": 6, "ignore_eos": True}
KEYS = {"id", "object", "created", "model", "choices", "usage"}
USAGE_NULL = {
    "openai": "without include_usage no chunk has a usage",
    "vllm": "without include_usage no chunk has a usage",
}


def _text(subject: Subject, **fields: Any) -> str:
    response = subject.ask(stream=True, **fields)
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    return response.text


@rule("stream.frames", requests=1, tokens=45)
def frames(subject: Subject) -> None:
    """There are only frames `data: {json}` and comments, no `event:` or `id:` lines."""
    text = _text(subject, **GREEDY)
    for frame in text.split("\n\n")[:-1]:
        require(re.fullmatch(r"data: [^\r\n]+|:[^\r\n]*", frame), f"a frame is {shown(frame)}")
    for data in data_of(text)[:-1]:
        object_of(data)


@rule("stream.done-is-last", requests=1, tokens=45)
def done_is_last(subject: Subject) -> None:
    """`data: [DONE]` ends the stream, once, and nothing follows."""
    text = _text(subject, **GREEDY)
    require(text.endswith(f"data: {DONE}\n\n"), f"it ends with {shown(text[-80:])}")
    require(text.count(f"data: {DONE}") == 1, f"{text.count(f'data: {DONE}')} [DONE]")


@rule("stream.content-type", requests=1, tokens=45)
def content_type(subject: Subject) -> None:
    """The content type is `text/event-stream`, in UTF-8."""
    kind = subject.ask(stream=True, **GREEDY).headers.get("content-type", "")
    require(
        re.fullmatch(r"text/event-stream(; ?charset=utf-8)?", kind, re.IGNORECASE), f"content type {kind!r}"
    )


@rule("stream.no-buffering", requests=1, tokens=45, differs={"openai": "not documented", "vllm": "not sent"})
def no_buffering(subject: Subject) -> None:
    """`Cache-Control: no-cache` and `X-Accel-Buffering: no` keep proxies from buffering a stream."""
    headers = subject.ask(stream=True, **GREEDY).headers
    seen = (headers.get("cache-control"), headers.get("x-accel-buffering"))
    require(seen == ("no-cache", "no"), f"Cache-Control and X-Accel-Buffering are {seen}")


@rule("stream.head-is-shared", requests=1, tokens=60)
def head_is_shared(subject: Subject) -> None:
    """All chunks of a reply share id, object, created and model."""
    chunks = subject.chunks(**TWO)
    heads = {tuple(chunk.get(name) for name in ("id", "object", "created", "model")) for chunk in chunks}
    require(len(heads) == 1, f"heads {shown(sorted(map(str, heads)))}")
    require(chunks[0]["object"] == "text_completion", f"object is {chunks[0]['object']!r}")


@rule(
    "stream.keys",
    requests=1,
    tokens=60,
    differs={"vllm": "a choice of a chunk has more keys: stop_reason, …"},
)
def keys(subject: Subject) -> None:
    """Chunks and their choices have the documented keys and no others."""
    chunks = subject.chunks(**GREEDY, stream_options={"include_usage": True})
    for chunk in chunks:
        require(set(chunk) - {"system_fingerprint"} == KEYS, f"keys {sorted(chunk)}")
        for choice in chunk["choices"]:
            wanted = {"index", "text", "logprobs", "finish_reason"}
            require(set(choice) == wanted, f"keys of a choice {sorted(choice)}")


@rule("stream.comes-as-it-is-made", requests=3, tokens=210)
def comes_as_it_is_made(subject: Subject) -> None:
    """Chunks arrive while the text is generated, not all at the end."""
    for _ in range(3):  # this process, or the server, may get no processor while they come
        text, times = subject.client.arrivals(subject.body(temperature=0, max_tokens=40, ignore_eos=True))
        count = len(chunks_of(text))
        middle, end = times[len(times) // 2] - times[0], times[-1] - times[0]
        if count > 4 and len(times) > 4 and middle > 0.1 * end:
            return
    when = f"half of them after {middle:.3f} s of {end:.3f} s"
    raise Unmet(f"{count} chunks for 40 tokens in {len(times)} pieces, {when}")


@rule("stream.usage-on-the-last-chunk", requests=1, tokens=60, differs=USAGE_NULL)
def usage_on_the_last_chunk(subject: Subject) -> None:
    """Without `stream_options`, the usage is on the last chunk, and every chunk has a choice."""
    chunks = subject.chunks(**TWO)
    require(all(chunk["choices"] for chunk in chunks), "a chunk has no choices")
    with_usage = [i for i, chunk in enumerate(chunks) if "usage" in chunk]
    require(with_usage == [len(chunks) - 1], f"usage on chunks {with_usage} of {len(chunks)}")
    require(chunks[-1]["usage"]["completion_tokens"] == 12, f"usage is {chunks[-1]['usage']}")


@rule(
    "stream.no-usage-unless-asked",
    requests=1,
    tokens=60,
    differs={"hosted": "the usage is on the last chunk"},
)
def no_usage_unless_asked(subject: Subject) -> None:
    """Without `stream_options` no chunk has a usage."""
    chunks = subject.chunks(**GREEDY)
    require(not any(chunk.get("usage") for chunk in chunks), "a chunk has a usage")


@rule("stream.include-usage", requests=2, tokens=110)
def include_usage(subject: Subject) -> None:
    """`include_usage` adds one chunk before `[DONE]`, with empty `choices` and the usage of the reply."""
    *chunks, last = subject.chunks(**TWO, stream_options={"include_usage": True})
    require(all(chunk["choices"] for chunk in chunks), "a chunk before the last has no choices")
    require(last["choices"] == [], f"the last chunk's choices are {shown(last['choices'])}")
    usage = subject.complete(**TWO)["usage"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    same = all(last["usage"][name] == usage[name] for name in counts)
    require(same, f"usage is {last['usage']}, and {usage} without a stream")


@rule("stream.usage-is-null-before", requests=1, tokens=45, differs={"vllm": "chunks have no usage key"})
def usage_is_null_before(subject: Subject) -> None:
    """With `include_usage` every chunk before the last has `"usage": null`."""
    *chunks, _ = subject.chunks(**GREEDY, stream_options={"include_usage": True})
    others = [chunk.get("usage", "missing") for chunk in chunks]
    require(all(usage is None for usage in others), f"usages before the last: {shown(others)}")


@rule("stream.include-usage-false", requests=1, tokens=45)
def include_usage_false(subject: Subject) -> None:
    """`include_usage: false` means no usage."""
    chunks = subject.chunks(**GREEDY, stream_options={"include_usage": False})
    require(not any(chunk.get("usage") for chunk in chunks), "a chunk has a usage")
    require(all(chunk["choices"] for chunk in chunks), "a chunk has no choices")


@rule("stream.null-options", requests=4, tokens=170)
def null_options(subject: Subject) -> None:
    """`stream_options` that is null, empty or has only nulls has no effect."""
    plain = fold(subject.chunks(**GREEDY))
    for options in (None, {}, {"include_usage": None}):
        chunks = subject.chunks(**GREEDY, stream_options=options)
        require(
            fold(chunks) == plain and all(chunk["choices"] for chunk in chunks), f"{options} says something"
        )


@rule("stream.continuous-usage", requests=1, tokens=45, differs={"openai": "there is no such field"})
def continuous_usage(subject: Subject) -> None:
    """`continuous_usage_stats` with `include_usage` puts the usage so far on every chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    usages = [chunk.get("usage") or {} for chunk in subject.chunks(**GREEDY, stream_options=options)]
    counts = [usage.get("completion_tokens", -1) for usage in usages]
    require(counts == sorted(counts) and counts[-1] == 6, f"completion_tokens of the chunks: {counts}")
    require(0 <= counts[0] < 6, f"the first chunk counts {counts[0]}")


@rule("stream.finishes-once", requests=1, tokens=90)
def finishes_once(subject: Subject) -> None:
    """`finish_reason` is null until a choice's last chunk; each choice finishes exactly once."""
    chunks = subject.chunks(n=4, temperature=1, seed=3, max_tokens=12)
    fold(chunks)
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    ends = sorted(part["index"] for part in parts if part["finish_reason"] is not None)
    require(ends == [0, 1, 2, 3], f"choices that finish: {ends}")


@rule("stream.whole-characters", requests=2, tokens=90)
def whole_characters(subject: Subject) -> None:
    """No chunk splits a UTF-8 character, except a choice's last."""
    chunks = subject.chunks(prompt="🦊" * 8, temperature=0, max_tokens=12)
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    whole = reply_of(subject.client.post(subject.body(prompt="🦊" * 8, temperature=0, max_tokens=12)))
    require("".join(texts) == whole["choices"][0]["text"], f"{shown(texts)} are not the reply's text")


@rule("stream.holds-a-stop-back", requests=1, tokens=45, differs={"openai": "there is no such field"})
def holds_a_stop_back(subject: Subject) -> None:
    """No chunk shows a part of a stop sequence that is left out."""
    before, stop = pieces(subject)
    chunks = subject.chunks(**PLAIN, stop=stop, include_stop_str_in_output=False)
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    require(text == before, f"{shown(text)}, not {shown(before)}")


@rule("stream.shows-an-unfinished-stop", requests=1, tokens=45)
def shows_an_unfinished_stop(subject: Subject) -> None:
    """Text that was held back, but is not a stop sequence after all, is sent."""
    _, stop = pieces(subject)
    chunks = subject.chunks(**PLAIN, stop=stop + "☃")
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    require(text == subject.text, f"{shown(text)}, not {shown(subject.text)}")


@rule("stream.refusal-has-its-status", requests=1, tokens=45)
def refusal_has_its_status(subject: Subject) -> None:
    """An error known before the first token has its HTTP status, and is not a stream."""
    response = subject.ask(stream=True, top_p=9, max_tokens=1)
    failed(subject, response, 400, "INVALID_REQUEST_BODY")
    kind = response.headers.get("content-type", "")
    require(kind.partition(";")[0] == "application/json", f"content type {kind!r}")


@rule(
    "stream.obfuscation-is-accepted",
    requests=1,
    tokens=45,
    differs={"openai": "chunks get an obfuscation key"},
)
def obfuscation_is_accepted(subject: Subject) -> None:
    """`include_obfuscation` is accepted, and has no effect."""
    chunks = subject.chunks(**GREEDY, stream_options={"include_obfuscation": True})
    require("obfuscation" not in chunks[0], f"keys {sorted(chunks[0])}")


@rule("stream.interval", requests=2, tokens=80, differs={"openai": "there is no such field"})
def interval(subject: Subject) -> None:
    """With `stream_interval`, chunks between the first and last have that many tokens, and the same text."""
    asked: dict[str, Any] = GREEDY | {"max_tokens": 12, "return_token_ids": True}
    whole = "".join(chunk["choices"][0]["text"] for chunk in subject.chunks(**asked))
    chunks = [chunk["choices"][0] for chunk in subject.chunks(**asked, stream_interval=5)]
    text = "".join(choice["text"] for choice in chunks)
    require(text == whole, f"{shown(text)} is not {shown(whole)}")
    sizes = [len(choice["token_ids"]) for choice in chunks]
    require(len(sizes) <= 4 and all(size >= 5 for size in sizes[1:-1]), f"chunks of {sizes} tokens")
