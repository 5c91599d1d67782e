"""Log-probabilities: the contents of the arrays, and that they are the raw model's."""

from __future__ import annotations

import re
from typing import Any

from conform.rules.reply import NO_ZERO
from conform.rules.stops import pieces
from conform.subject.ends import require, shown
from conform.subject.frames import Json, as_bytes, is_whole
from conform.subject.rule import rule
from conform.subject.server import PLAIN, PROMPT, Subject

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
FOREIGN = "naïve 🦊 日本"
ASKED: tuple[dict[str, Any], ...] = (
    {"logprobs": 0, **GREEDY},
    {"logprobs": 5, **GREEDY},
    {"logprobs": 2, "temperature": 1, "max_tokens": 40, "seed": 2},
    {"logprobs": 5, "echo": True, "prompt": FOREIGN, "temperature": 1, "max_tokens": 10, "seed": 3},
    {"logprobs": 1, "logit_bias": {"300": -100}, "frequency_penalty": 1.5, **GREEDY},
)
MOST = 300  # tokens that these take together
NAMES = {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
SPELLING = {"vllm": "a token that is not text by itself becomes the replacement character"}


def _each(subject: Subject) -> list[tuple[dict[str, Any], Json]]:
    subject.need_logprobs()
    return [(asked, subject.choice(**asked)) for asked in ASKED]


@rule("logprobs.four-arrays", requests=len(ASKED), tokens=MOST)
def four_arrays(subject: Subject) -> None:
    """There are four arrays of the same length, with an entry for each token."""
    for asked, choice in _each(subject):
        logprobs = choice["logprobs"]
        require(set(logprobs) == NAMES, f"keys {sorted(logprobs)}")
        lengths = {name: len(values) for name, values in logprobs.items()}
        require(len(set(lengths.values())) == 1, f"{shown(asked)}: lengths {lengths}")


@rule("logprobs.one-value", requests=len(ASKED), tokens=MOST)
def one_value(subject: Subject) -> None:
    """The sampled token is in `top_logprobs`, with the same float as in `token_logprobs`."""
    for _, choice in _each(subject):
        logprobs = choice["logprobs"]
        for token, value, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            if value is not None:
                require((top or {}).get(token) == value, f"{token!r} is {value}, and in {shown(top)}")
                require(value <= 0, f"the log-probability of {token!r} is {value}")


@rule("logprobs.k-or-one-more", requests=len(ASKED), tokens=MOST)
def k_or_one_more(subject: Subject) -> None:
    """`top_logprobs` has the k likeliest tokens and the sampled one: k or k + 1 entries."""
    for asked, choice in _each(subject):
        k = asked["logprobs"]
        for top in choice["logprobs"]["top_logprobs"][1 if asked.get("echo") else 0 :]:
            require(
                len(top or {}) in (max(1, k), k + 1), f"{len(top or {})} entries for k = {k}: {shown(top)}"
            )


@rule("logprobs.zero", requests=1, tokens=50, differs={"openai": "top_logprobs is null"})
def zero(subject: Subject) -> None:
    """`logprobs: 0` shows only the sampled tokens."""
    logprobs = subject.scored(logprobs=0, **GREEDY)
    wanted = [
        {token: value} for token, value in zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True)
    ]
    require(logprobs["top_logprobs"] == wanted, f"top_logprobs is {shown(logprobs['top_logprobs'])}")


@rule("logprobs.tokens-are-the-text", requests=len(ASKED), tokens=MOST, differs=SPELLING)
def tokens_are_the_text(subject: Subject) -> None:
    """The tokens join to the text; `bytes:` stands for those that are not text by themselves."""
    for asked, choice in _each(subject):
        joined = b"".join(map(as_bytes, choice["logprobs"]["tokens"])).decode("utf-8", "replace")
        ended = choice["finish_reason"] == "stop"  # the token that ends the text has a name and no text
        same = joined.startswith(choice["text"]) if ended else joined == choice["text"]
        require(same, f"{shown(asked)}: {shown(joined)} is not {shown(choice['text'])}")


@rule("logprobs.bytes-are-spelled", requests=1, tokens=30, differs=SPELLING)
def bytes_are_spelled(subject: Subject) -> None:
    """A token that is not whole UTF-8 by itself is written `bytes:\\xf0`; no two tokens have
    the same name."""
    tokens = subject.scored(prompt=FOREIGN, echo=True, max_tokens=0, logprobs=1)["tokens"]
    joined = b"".join(map(as_bytes, tokens))
    require(joined.decode("utf-8", "replace").endswith(FOREIGN), f"{shown(tokens)} are not {FOREIGN}")
    for token in tokens:
        whole = not token.startswith("bytes:") or re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", token)
        require(whole and "\ufffd" not in token, f"a token is written {token!r}")


@rule(
    "logprobs.text-offset",
    requests=len(ASKED),
    tokens=MOST,
    differs={"openai": "offsets count from the prompt's length", **SPELLING},
)
def text_offset(subject: Subject) -> None:
    """`text_offset` counts characters of the returned text, from 0."""
    for _, choice in _each(subject):
        before = b""
        tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
        for token, offset in zip(tokens, offsets, strict=True):
            if is_whole(before):
                at = min(len(before.decode()), len(choice["text"]))
                require(offset == at, f"the offset of {token!r} is {offset}, not {at}")
            before += as_bytes(token)


CHANGES: tuple[dict[str, Any], ...] = (
    {"temperature": 2},
    {"top_k": 2},
    {"top_p": 0.1},
    {"logit_bias": {"300": 100}},
    {"repetition_penalty": 2},
)


@rule("logprobs.raw", requests=1 + len(CHANGES), tokens=200, differs={"openai": "not documented"})
def raw(subject: Subject) -> None:
    """The values are the raw model's: no sampling field changes them."""
    asked: dict[str, Any] = {"max_tokens": 1, "logprobs": 5, "temperature": 0}
    plain = subject.scored(**asked)["top_logprobs"][0]
    for change in CHANGES:
        seen = subject.scored(**asked | change)["top_logprobs"][0]
        for token, value in plain.items():
            near = abs(seen.get(token, 1) - value) < 1e-3
            require(near, f"{change}: {token!r} is {seen.get(token)}, and {value} without")


@rule("logprobs.echo-covers-the-prompt", requests=1, tokens=50)
def echo_covers_the_prompt(subject: Subject) -> None:
    """With `echo` the arrays cover the prompt; the first token has no log-probability."""
    subject.need_logprobs()
    reply = subject.complete(echo=True, logprobs=1, **GREEDY, ignore_eos=True)
    logprobs = reply["choices"][0]["logprobs"]
    values = logprobs["token_logprobs"]
    total = reply["usage"]["total_tokens"]
    require(len(values) == total, f"{len(values)} entries for {total} tokens")
    missing = [i for i, value in enumerate(values) if value is None]
    require(missing == [0], f"no values at {missing}")
    require(
        logprobs["top_logprobs"][0] is None, f"top_logprobs begins with {shown(logprobs['top_logprobs'][0])}"
    )


@rule("logprobs.scores-of-a-prompt", requests=1, tokens=40)
def scores_of_a_prompt(subject: Subject) -> None:
    """lm-evaluation-harness's request is answered: token ids, one more token, all log-probabilities."""
    subject.need_logprobs()
    asked: dict[str, Any] = {"prompt": [[300, 400, 500], [600, 700]], "max_tokens": 1, "logprobs": 1}
    choices = subject.choices(**asked, echo=True, temperature=0, seed=1234)
    for choice, count in zip(choices, (4, 3), strict=True):
        values = choice["logprobs"]["token_logprobs"]
        require(len(values) == count, f"{len(values)} values, not {count}")
        require(all(isinstance(value, float) for value in values[1:]), f"values {shown(values)}")


@rule("logprobs.scores-are-the-completions", requests=2, tokens=70)
def scores_are_the_completions(subject: Subject) -> None:
    """A text has the same log-probabilities as a prompt as it had when it was generated."""
    subject.need_logprobs()
    asked: dict[str, Any] = {"prompt": [300, 400, 500], "temperature": 0, "logprobs": 1}
    bias = {"logit_bias": {"600": 100}, "max_tokens": 3}
    generated = subject.scored(**asked, **bias)["token_logprobs"]
    scored = subject.scored(**asked | {"prompt": [300, 400, 500, 600, 600, 600]}, max_tokens=1, echo=True)
    pairs = list(zip(generated, scored["token_logprobs"][3:6], strict=True))
    require(all(abs(one - other) < 0.05 for one, other in pairs), f"generated and scored: {pairs}")


@rule("logprobs.scored-context", requests=1, tokens=520, differs=NO_ZERO)
def scored_context(subject: Subject) -> None:
    """A prompt of the whole context can be scored, with `max_tokens` 0."""
    size = subject.small_context()
    ids = [300 + (7 * k) % 600 for k in range(size)]
    logprobs = subject.scored(prompt=ids, max_tokens=0, echo=True, logprobs=1)
    require(len(logprobs["tokens"]) == size, f"{len(logprobs['tokens'])} tokens of {size}")


@rule("logprobs.prompt-offsets", requests=1, tokens=30, differs={"openai": "not documented"})
def prompt_offsets(subject: Subject) -> None:
    """An echoed token's offset is where its text begins in the prompt, leading space included."""
    logprobs = subject.scored(echo=True, logprobs=0, max_tokens=0)
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        there = PROMPT[offset : offset + len(token)]
        require(there == token or offset >= len(PROMPT), f"{token!r} at {offset}, where {there!r} stands")


@rule("logprobs.of-a-left-out-stop", requests=1, tokens=45, differs={"openai": "there is no such field"})
def of_a_left_out_stop(subject: Subject) -> None:
    """A stop sequence that is left out of the text keeps its tokens in the arrays."""
    subject.need_logprobs()
    before, stop = pieces(subject)
    choice = subject.choice(**PLAIN, stop=stop, include_stop_str_in_output=False, logprobs=0)
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    joined = b"".join(map(as_bytes, tokens)).decode("utf-8", "replace")
    require(choice["text"] == before, f"text is {shown(choice['text'])}, not {shown(before)}")
    require(joined.startswith(before + stop), f"the tokens are {shown(joined)}, without {shown(stop)}")
    most = len(before + stop)  # of a stop of several tokens the later ones begin behind the text
    require(max(offsets) < most, f"offsets {offsets} of a text of {len(before)} characters and its stop")


@rule("logprobs.of-named-tokens", requests=2, tokens=20, differs={"openai": "there is no such field"})
def of_named_tokens(subject: Subject) -> None:
    """With `logprob_token_ids`, `top_logprobs` has these tokens instead of the most likely ones."""
    duel = subject.duel()
    asked: dict[str, Any] = {"prompt": duel.prompt, "temperature": 0, "max_tokens": 1, "logprobs": 2}
    (top,) = subject.scored(**asked, logprob_token_ids=[duel.a, duel.b])["top_logprobs"]
    require({duel.name_a, duel.name_b} <= set(top) and len(top) <= 3, f"top_logprobs is {shown(top)}")
    seen = top[duel.name_a] - top[duel.name_b]
    require(abs(seen - duel.first) < 0.1, f"a is {seen} likelier than b, not {duel.first}")
