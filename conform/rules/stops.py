"""Where a text ends: stop sequences and stop tokens, and whether they are in the text."""

from __future__ import annotations

from typing import Any

from conform.subject.ends import Skipped, require, shown
from conform.subject.rule import rule
from conform.subject.server import PLAIN, PROMPT, Subject

LEFT_OUT = {
    "openai": "the text ends before the stop sequence",
    "vllm": "the text ends before the stop sequence",
}
INCLUDED = {"hosted": "the text includes the stop sequence"}
NOT_OPENAIS = {"openai": "there is no such field"}
NEVER = "☃☃"  # in no text


def pieces(subject: Subject) -> tuple[str, str]:
    """(the text before a sequence in its middle that has not come earlier, the sequence)."""
    text = subject.text
    for start in range(max(1, len(text) // 3), len(text) - 4):
        piece = text[start : start + 3]
        if text.find(piece) == start and "\ufffd" not in text[: start + 6]:
            return text[:start], piece
    raise Skipped(f"the model's text has no middle to stop at: {shown(text)}")


def expect(choice: dict[str, Any], text: str, reason: str = "stop") -> None:
    seen = (choice["text"], choice["finish_reason"])
    require(seen == (text, reason), f"text and finish_reason are {shown(seen)}, not {shown((text, reason))}")


@rule("stops.included", requests=2, tokens=90, differs=LEFT_OUT)
def included(subject: Subject) -> None:
    """The returned text ends with the stop sequence, however it is split into tokens."""
    before, stop = pieces(subject)
    expect(subject.choice(**PLAIN, stop=stop), before + stop)
    expect(subject.choice(**PLAIN, stop=[NEVER, stop]), before + stop)


@rule("stops.left-out", requests=2, tokens=90, differs=INCLUDED)
def left_out(subject: Subject) -> None:
    """The returned text ends before the stop sequence, however it is split into tokens."""
    before, stop = pieces(subject)
    expect(subject.choice(**PLAIN, stop=stop), before)
    expect(subject.choice(**PLAIN, stop=[NEVER, stop]), before)


@rule("stops.as-the-request-says", requests=2, tokens=90, differs=NOT_OPENAIS)
def as_the_request_says(subject: Subject) -> None:
    """`include_stop_str_in_output` says whether the stop sequence is in the text."""
    before, stop = pieces(subject)
    expect(subject.choice(**PLAIN, stop=stop, include_stop_str_in_output=False), before)
    expect(subject.choice(**PLAIN, stop=stop, include_stop_str_in_output=True), before + stop)


@rule("stops.first-in-the-text", requests=1, tokens=45)
def first_in_the_text(subject: Subject) -> None:
    """The stop sequence that is complete first in the text ends it, not the first of the list."""
    before, stop = pieces(subject)
    later = subject.text[len(before) + 3 : len(before) + 6]
    text = subject.choice(**PLAIN, stop=[later, stop] if len(later) == 3 else [NEVER, stop])["text"]
    require(text in (before, before + stop), f"{shown(text)} does not end at {shown(stop)}")


@rule("stops.completion-alone", requests=1, tokens=45)
def completion_alone(subject: Subject) -> None:
    """A stop sequence is searched only in the completion, not in an echoed prompt."""
    choice = subject.choice(**PLAIN, echo=True, stop=PROMPT[4:12])
    require(choice["text"].startswith(PROMPT), f"it ends in the prompt: {shown(choice['text'])}")
    require(len(choice["text"]) > len(PROMPT), "nothing follows the prompt")


@rule("stops.usage-to-the-stop", requests=1, tokens=45)
def usage_to_the_stop(subject: Subject) -> None:
    """`usage` counts the tokens up to the stop, and none after it."""
    subject.need_logprobs()
    before, stop = pieces(subject)
    joined, count = "", 0
    while len(joined) < len(before + stop) and count < len(subject.tokens):
        joined, count = joined + subject.tokens[count], count + 1
    if not joined.startswith(before + stop):
        raise Skipped("the text's tokens are spelled otherwise than the text")
    seen = subject.complete(**PLAIN, stop=stop)["usage"]["completion_tokens"]
    require(seen == count, f"completion_tokens is {seen}, where the text is complete with {count}")


@rule("stops.length", requests=1, tokens=45)
def length(subject: Subject) -> None:
    """A text that `max_tokens` ends has the finish_reason `length`."""
    expect(subject.choice(**PLAIN), subject.text, "length")


@rule("stops.token-ids", requests=2, tokens=30, differs=NOT_OPENAIS)
def token_ids(subject: Subject) -> None:
    """A token of `stop_token_ids` ends the text with the finish_reason `stop`, and is counted."""
    duel = subject.duel()
    asked: dict[str, Any] = {"prompt": duel.prompt, "temperature": 0, "max_tokens": 4}
    asked |= {"logit_bias": {str(duel.a): 100}, "stop_token_ids": [duel.a]}
    reply = subject.complete(**asked, include_stop_str_in_output=False)
    expect(reply["choices"][0], "")
    require(reply["usage"]["completion_tokens"] == 1, f"usage is {reply['usage']}")
    choice = subject.choice(**asked, include_stop_str_in_output=True)
    require(choice["text"] and choice["finish_reason"] == "stop", f"with the token: {shown(choice)}")


@rule("stops.not-before-min-tokens", requests=1, tokens=45, differs=NOT_OPENAIS)
def not_before_min_tokens(subject: Subject) -> None:
    """A stop sequence that comes before `min_tokens` does not end the text."""
    before, stop = pieces(subject)
    text = subject.choice(**PLAIN, stop=stop, min_tokens=PLAIN["max_tokens"])["text"]
    require(
        text.startswith(before + stop) and len(text) > len(before + stop), f"it ends early: {shown(text)}"
    )
