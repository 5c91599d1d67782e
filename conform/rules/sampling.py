"""The sampling fields: each is shown to act exactly as strongly as it should.

Two tokens, a and b, between which a bias decides (Duel in conform/subject/server.py), show differences of
half a logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Any

from conform.subject.ends import Skipped, require, shown
from conform.subject.rule import rule
from conform.subject.server import Duel, Subject

HALF = 0.5  # a logit: what the duels are won and lost by
NOT_OPENAIS = {"openai": "there is no such field"}
DRAWS: dict[str, Any] = {"n": 32, "max_tokens": 1, "logprobs": 0, "seed": 1}
PROMPTS = [[320, 300, 330], [300], [500], [400, 700], [350, 650], [450, 750, 300]]
CLEAR = 0.02  # a natural logarithm, of the clearest: no more than a model of random weights has


def said(subject: Subject, duel: Duel, count: int = 1, **fields: Any) -> str:
    """The chosen ones of the two tokens, as a text of a and b."""
    asked: dict[str, Any] = {"prompt": duel.prompt, "temperature": 0, "max_tokens": count, "logprobs": 0}
    tokens = subject.scored(**asked | fields)["tokens"]
    return "".join({duel.name_a: "a", duel.name_b: "b"}.get(token, "?") for token in tokens)


def expect(seen: str, wanted: str, what: str) -> None:
    require(seen == wanted, f"{what}: {seen}, not {wanted}")


def drawn(subject: Subject, prompt: list[int], **fields: Any) -> set[str]:
    """The names of the first tokens in 32 candidates."""
    choices = subject.choices(prompt=prompt, **DRAWS | fields)
    return {choice["logprobs"]["tokens"][0] for choice in choices}


@dataclass(frozen=True, slots=True)
class Ranking:
    """The likeliest tokens after a prompt with their probabilities, and how many of them stand out."""

    prompt: list[int]
    shares: list[tuple[str, float]]
    cut: int

    @property
    def gap(self) -> float:
        """How much likelier the last of them is than the next token, as a natural logarithm."""
        return log(self.shares[self.cut - 1][1] / self.shares[self.cut][1])

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.shares[: self.cut]}


def ranking(subject: Subject) -> Ranking:
    """The clearest ranking of several prompts: small differences are not reproducible with 16-bit numbers."""
    subject.need_logprobs()
    choices = subject.choices(prompt=PROMPTS, temperature=0, max_tokens=1, logprobs=5)
    found = []
    for prompt, choice in zip(PROMPTS, choices, strict=True):
        top = choice["logprobs"]["top_logprobs"][0]
        shares = sorted(((name, exp(value)) for name, value in top.items()), key=lambda pair: -pair[1])
        found += [Ranking(prompt, shares, cut) for cut in range(2, len(shares))]
    best = max(found, key=lambda one: one.gap)
    if best.gap < CLEAR:
        raise Skipped("the likeliest tokens are too alike after every prompt that was tried")
    return best


def expect_names(seen: set[str], ranked: Ranking, what: str) -> None:
    message = f"{what} draws {shown(sorted(seen))}, not only {shown(sorted(ranked.names))}"
    require(seen <= ranked.names, message)


@rule("sampling.bias-forces-and-forbids", requests=2, tokens=20)
def bias_forces_and_forbids(subject: Subject) -> None:
    """A `logit_bias` of 100 forces a token, and one of -100 forbids it."""
    duel = subject.duel()
    expect(said(subject, duel, 4, logit_bias={str(duel.a): 100, str(duel.b): 60}), "aaaa", "+100 for a")
    expect(said(subject, duel, 4, logit_bias={str(duel.a): -100, str(duel.b): 60}), "bbbb", "-100 for a")


@rule("sampling.bias-is-exact", requests=2, tokens=20)
def bias_is_exact(subject: Subject) -> None:
    """A `logit_bias` is added to the logits: half a logit decides between two tokens."""
    duel = subject.duel()
    expect(said(subject, duel, logit_bias=duel.bias(HALF)), "a", "a leads by half a logit")
    expect(said(subject, duel, logit_bias=duel.bias(-HALF)), "b", "b leads by half a logit")


@rule("sampling.allowed-token-ids", requests=2, tokens=80, differs=NOT_OPENAIS)
def allowed_token_ids(subject: Subject) -> None:
    """Only `allowed_token_ids` are drawn, whatever the bias, with their usual weights."""
    duel = subject.duel()
    allowed: dict[str, Any] = {"allowed_token_ids": [duel.a, duel.b], "ignore_eos": True}
    seen = drawn(subject, duel.prompt, **allowed, temperature=2)
    require(seen <= {duel.name_a, duel.name_b}, f"{shown(sorted(seen))} of {duel.name_a} and {duel.name_b}")
    bias = duel.bias(HALF) | {str(duel.b + 1): 100}
    expect(said(subject, duel, **allowed, logit_bias=bias), "a", "a leads by half a logit")


@rule("sampling.bad-words", requests=2, tokens=60, differs=NOT_OPENAIS)
def bad_words(subject: Subject) -> None:
    """A word in `bad_words` is not generated, although it would have been."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    text = subject.choice(**asked)["text"]
    words = [word for word in text.split() if word.isalpha()]
    if not words:
        raise Skipped("what the model says has no word of letters")
    seen = subject.choice(**asked, bad_words=words[:1])["text"]
    require(words[0] not in seen.split(), f"{words[0]} is in {shown(seen)}")


@rule("sampling.priority-changes-nothing", requests=2, tokens=80, differs=NOT_OPENAIS)
def priority_changes_nothing(subject: Subject) -> None:
    """`priority` changes the order of requests, and never the text."""
    asked: dict[str, Any] = {"temperature": 1, "seed": 3, "max_tokens": 8}
    texts = [subject.choice(**asked, priority=priority)["text"] for priority in (0, 7)]
    require(texts[0] == texts[1], f"{shown(texts[1])} is not {shown(texts[0])}")


def _generated_only(subject: Subject, penalty: str) -> None:
    duel = subject.duel()
    lead = 1 + (duel.first - duel.second) / 2  # so that a leads by about one at both positions
    bias = duel.bias(lead)
    expect(said(subject, duel, 2, logit_bias=bias), "aa", "without a penalty")
    expect(said(subject, duel, 2, logit_bias=bias, **{penalty: 2}), "ab", f"{penalty} 2, a in the prompt")
    expect(said(subject, duel, 2, logit_bias=bias, **{penalty: 0.2}), "aa", f"{penalty} 0.2")


@rule("sampling.frequency-penalty", requests=3, tokens=30)
def frequency_penalty(subject: Subject) -> None:
    """`frequency_penalty` is subtracted from the logits of generated tokens, not of the prompt's."""
    _generated_only(subject, "frequency_penalty")


@rule("sampling.presence-penalty", requests=3, tokens=30)
def presence_penalty(subject: Subject) -> None:
    """`presence_penalty` is subtracted from the logits of generated tokens, not of the prompt's."""
    _generated_only(subject, "presence_penalty")


@rule("sampling.frequency-counts-each", requests=2, tokens=60)
def frequency_counts_each(subject: Subject) -> None:
    """`frequency_penalty` counts each occurrence of a token, `presence_penalty` only the first."""
    duel = subject.duel()
    bias = duel.bias(20)
    seen = said(subject, duel, 16, logit_bias=bias, frequency_penalty=2)
    require(seen[:4] == "aaaa" and "b" in seen, f"frequency_penalty 2, a ahead by 20: {seen}")
    expect(said(subject, duel, 16, logit_bias=bias, presence_penalty=2), "a" * 16, "presence_penalty 2")


@rule("sampling.repetition-penalty", requests=2, tokens=20, differs=NOT_OPENAIS)
def repetition_penalty(subject: Subject) -> None:
    """`repetition_penalty` makes a token of the prompt less likely."""
    duel = subject.duel()
    expect(said(subject, duel, logit_bias=duel.bias(HALF)), "a", "without a penalty")
    expect(
        said(subject, duel, logit_bias=duel.bias(HALF), repetition_penalty=2), "b", "with 2, a in the prompt"
    )


NARROW: tuple[dict[str, Any], ...] = ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1})


@rule("sampling.narrowest-is-greedy", requests=4, tokens=60, differs=NOT_OPENAIS)
def narrowest_is_greedy(subject: Subject) -> None:
    """`top_k` 1, `top_p` near 0 and `min_p` 1 leave only the likeliest token, whatever the temperature."""
    asked: dict[str, Any] = {"prompt": [320, 300, 330], "max_tokens": 6}
    greedy = subject.choice(**asked, temperature=0)["text"]
    for narrow in NARROW:
        text = subject.choice(**asked, temperature=2, **narrow)["text"]
        require(text == greedy, f"{narrow}: {shown(text)}, where greedy is {shown(greedy)}")


@rule("sampling.top-k", requests=2, tokens=60, differs=NOT_OPENAIS)
def top_k(subject: Subject) -> None:
    """`top_k` draws from that many of the likeliest tokens."""
    ranked = ranking(subject)
    seen = drawn(subject, ranked.prompt, top_k=ranked.cut, temperature=2)
    expect_names(seen, ranked, f"top_k {ranked.cut}")


@rule("sampling.top-p", requests=2, tokens=60)
def top_p(subject: Subject) -> None:
    """`top_p` draws from the smallest set of likeliest tokens whose probabilities reach it."""
    ranked = ranking(subject)
    shares = [share for _, share in ranked.shares[: ranked.cut]]
    reaches = sum(shares) - shares[-1] / 2
    expect_names(drawn(subject, ranked.prompt, top_p=reaches), ranked, f"top_p {reaches:.3g}")


@rule("sampling.min-p", requests=2, tokens=60, differs=NOT_OPENAIS)
def min_p(subject: Subject) -> None:
    """`min_p` leaves out tokens that are less likely than that share of the likeliest one."""
    ranked = ranking(subject)
    share = ranked.shares[ranked.cut - 1][1] / ranked.shares[0][1] * exp(-ranked.gap / 2)
    expect_names(drawn(subject, ranked.prompt, min_p=share), ranked, f"min_p {share:.3g}")


@rule("sampling.min-p-after-temperature", requests=1, tokens=60, differs=NOT_OPENAIS)
def min_p_after_temperature(subject: Subject) -> None:
    """`min_p` applies after the temperature."""
    duel = subject.duel()
    share = exp(-0.75 * HALF)  # above what b has of a's probability at temperature 1, below it at 2
    seen = drawn(subject, duel.prompt, logit_bias=duel.bias(HALF), min_p=share, temperature=2)
    require(
        duel.name_b in seen,
        f"min_p {share:.3g} at temperature 2 leaves {shown(duel.name_b)} out: {shown(sorted(seen))}",
    )


@rule("sampling.temperature-spreads", requests=2, tokens=200)
def temperature_spreads(subject: Subject) -> None:
    """Temperature 2 draws more different tokens than temperature 0.01."""
    few, many = (len(drawn(subject, PROMPTS[0], temperature=heat)) for heat in (0.01, 2))
    require(few < many, f"{few} different tokens at 0.01, {many} at 2")


@rule("sampling.min-tokens", requests=2, tokens=40, differs=NOT_OPENAIS)
def min_tokens(subject: Subject) -> None:
    """`min_tokens` bans the tokens that would end the text until that many were generated."""
    duel = subject.duel()
    ends: dict[str, Any] = {"logit_bias": duel.bias(20), "stop_token_ids": [duel.a], "max_tokens": 6}
    asked = {"prompt": duel.prompt, "temperature": 0, **ends}
    count = subject.complete(**asked)["usage"]["completion_tokens"]
    require(count == 1, f"without min_tokens it ends after {count} tokens, not 1")
    count = subject.complete(**asked, min_tokens=3)["usage"]["completion_tokens"]
    require(count == 4, f"with min_tokens 3 it ends after {count} tokens, not 4")
