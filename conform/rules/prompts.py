"""The prompt: its four forms, its length, and an empty one."""

from __future__ import annotations

from typing import Any

from conform.rules import table
from conform.rules.reply import NO_ZERO, special_token
from conform.subject.client import reply_of
from conform.subject.ends import Skipped, require, shown
from conform.subject.refusal import failed, message_of, refuses
from conform.subject.rule import rule
from conform.subject.server import PROMPT, Subject

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
IDS = [300, 400, 500]
NOT_OPENAIS = {"openai": "there is no such field"}
NOT_PARSED = NOT_OPENAIS | {"vllm": "there is no such field"}
TO_FIT = {"openai": "there is no such field", "vllm": "it keeps the whole context less one token"}


@rule("prompts.text-or-array", requests=2, tokens=70)
def text_or_array(subject: Subject) -> None:
    """A text and an array of only that text are the same prompt."""
    alone, array = subject.choices(**GREEDY), subject.choices(**GREEDY | {"prompt": [PROMPT]})
    require(alone == array, f"{shown(array)} is not {shown(alone)}")


@rule("prompts.ids-or-array", requests=2, tokens=20)
def ids_or_array(subject: Subject) -> None:
    """A list of token ids and an array of only that list are the same prompt."""
    alone, array = subject.choices(**GREEDY, prompt=IDS), subject.choices(**GREEDY, prompt=[IDS])
    require(alone == array, f"{shown(array)} is not {shown(alone)}")


@rule("prompts.ids-count-as-they-are", requests=1, tokens=10)
def ids_count_as_they_are(subject: Subject) -> None:
    """No token is added to a prompt of token ids."""
    count = subject.complete(prompt=IDS, max_tokens=1)["usage"]["prompt_tokens"]
    require(count == len(IDS), f"prompt_tokens is {count} for {len(IDS)} ids")


@rule("prompts.each-is-answered", requests=3, tokens=130)
def each_is_answered(subject: Subject) -> None:
    """Several prompts are answered in their order, each as it is answered alone."""
    texts = ["One two three", PROMPT]
    alone = [subject.choice(**GREEDY, prompt=text)["text"] for text in texts]
    together = subject.choices(**GREEDY, prompt=texts)
    indexes = [choice["index"] for choice in together]
    require(indexes == [0, 1], f"indexes {indexes}")
    seen = [choice["text"] for choice in together]
    require(seen == alone, f"{shown(seen)} is not {shown(alone)}")


@rule("prompts.mixed-ids-and-lengths", requests=1, tokens=30)
def of_different_lengths(subject: Subject) -> None:
    """Prompts of token ids may differ in length, and each counts once."""
    reply = subject.complete(prompt=[[300], [400, 500, 600], [700, 800]], max_tokens=2, ignore_eos=True)
    usage = reply["usage"]
    require(usage["prompt_tokens"] == 6, f"prompt_tokens is {usage['prompt_tokens']} for 1 + 3 + 2 ids")
    require(usage["completion_tokens"] == 6, f"completion_tokens is {usage['completion_tokens']} for 3 × 2")


@rule("prompts.empty-is-bos", requests=1, tokens=10)
def empty_is_bos(subject: Subject) -> None:
    """An empty text becomes the BOS token, and counts as one; it is a 400 if the model has none."""
    response = subject.ask(prompt="", max_tokens=1)
    if response.status_code == 400:
        require("prompt" in message_of(response), f"the message names no prompt: {shown(response.text)}")
        return
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    count = response.json()["usage"]["prompt_tokens"]
    require(count == 1, f"prompt_tokens is {count}")


@rule("prompts.context-is-kept", requests=2, tokens=128)
def context_is_kept(subject: Subject) -> None:
    """A `max_tokens` that does not fit into the context is a 400 with OpenAI's message and the numbers."""
    size = subject.context_size
    if size is None:
        raise Skipped("the model's entry does not state the context size")
    for max_tokens in (size, table.INT64):
        words = table.too_long_words(size, 1, max_tokens)
        refuses(subject, {"prompt": [300], "max_tokens": max_tokens}, "max_tokens", words)


@rule("prompts.too-long", requests=4, tokens=2100)
def too_long(subject: Subject) -> None:
    """A prompt longer than the context, alone or with its `max_tokens`, is a 400."""
    size = subject.small_context()
    for num_prompt, max_tokens, field in table.too_long(size)[:4]:
        words = table.too_long_words(size, num_prompt, max_tokens)
        refuses(subject, {"prompt": [300] * num_prompt, "max_tokens": max_tokens}, field, words)


@rule("prompts.context-may-be-filled", requests=2, tokens=1030)
def context_may_be_filled(subject: Subject) -> None:
    """Prompt and completion together may be as long as the context."""
    size = subject.small_context()
    for num_prompt in (size - 1, 1):
        asked: dict[str, Any] = {"prompt": [300] * num_prompt, "max_tokens": size - num_prompt}
        usage = subject.complete(**asked, ignore_eos=True)["usage"]
        require(usage["total_tokens"] == size, f"{num_prompt} of {size} in the prompt: usage is {usage}")


@rule("prompts.prompt-may-fill-the-context", requests=1, tokens=520, differs=NO_ZERO)
def prompt_may_fill_the_context(subject: Subject) -> None:
    """A prompt alone may be as long as the context, with `max_tokens` 0."""
    size = subject.small_context()
    usage = subject.complete(prompt=[300] * size, max_tokens=0)["usage"]
    require(usage["total_tokens"] == size, f"usage is {usage}")


@rule("prompts.truncated-ids", requests=2, tokens=60, differs={"openai": "there is no such field"})
def truncated(subject: Subject) -> None:
    """`truncate_prompt_tokens` keeps that many last tokens: the reply is the same as to them alone."""
    asked: dict[str, Any] = GREEDY | {"echo": True}
    reply = subject.complete(**asked, prompt=[600, 700, *IDS], truncate_prompt_tokens=3)
    require(
        reply["usage"]["prompt_tokens"] == 3, f"prompt_tokens is {reply['usage']['prompt_tokens']}, not 3"
    )
    kept = subject.choice(**asked, prompt=IDS)["text"]
    require(reply["choices"][0]["text"] == kept, f"{shown(reply['choices'][0]['text'])} is not {shown(kept)}")


@rule("prompts.truncated-on-the-right", requests=2, tokens=60, differs={"openai": "there is no such field"})
def truncated_on_the_right(subject: Subject) -> None:
    """With `truncation_side: right`, `truncate_prompt_tokens` keeps that many first tokens."""
    asked: dict[str, Any] = GREEDY | {"echo": True}
    cut: dict[str, Any] = {"truncate_prompt_tokens": 3, "truncation_side": "right"}
    seen = subject.choice(**asked, prompt=[*IDS, 600, 700], **cut)["text"]
    kept = subject.choice(**asked, prompt=IDS)["text"]
    require(seen == kept, f"{shown(seen)} is not {shown(kept)}")


@rule("prompts.truncated-to-fit", requests=1, tokens=2060, differs=TO_FIT)
def truncated_to_fit(subject: Subject) -> None:
    """`truncate_prompt_tokens: -1` keeps as many as leave room for `max_tokens`."""
    size = subject.small_context()
    usage = subject.complete(prompt=[300] * (4 * size), truncate_prompt_tokens=-1, max_tokens=6)["usage"]
    require(usage["prompt_tokens"] == size - 6, f"prompt_tokens is {usage['prompt_tokens']} of {size} - 6")


@rule("prompts.special-tokens-are-added", requests=3, tokens=60, differs=NOT_OPENAIS)
def special_tokens_are_added(subject: Subject) -> None:
    """`add_special_tokens: false` leaves out the special tokens that the tokenizer adds, and no others."""
    added, plain = (_ids(subject, PROMPT, add_special_tokens=wanted) for wanted in (True, False))
    require(_ids(subject, PROMPT) == added, "it is on where nothing is said")
    is_part = any(added[k : k + len(plain)] == plain for k in range(len(added) - len(plain) + 1))
    require(plain and is_part, f"{shown(plain)} is not a part of {shown(added)}")


@rule("prompts.special-tokens-are-text", requests=3, tokens=60, differs=NOT_PARSED)
def special_tokens_are_text(subject: Subject) -> None:
    """With `parse_special: false` the name of a special token in a prompt is ordinary text."""
    name, token_id = special_token(subject)
    parsed, text = (_ids(subject, f"a{name}b", parse_special=wanted) for wanted in (True, False))
    require(token_id in parsed, f"{name} is {shown(parsed)}, not {token_id}")
    require(token_id not in text and len(text) > len(parsed), f"{name} is {shown(text)} as text")


@rule("prompts.salt-changes-nothing", requests=2, tokens=60, differs=NOT_OPENAIS)
def salt_changes_nothing(subject: Subject) -> None:
    """`cache_salt` separates the prefix cache from that of others, and does not change the text."""
    texts = [subject.choice(**GREEDY, cache_salt=salt)["text"] for salt in ("a", "another")]
    require(texts[0] == texts[1], f"{shown(texts[1])} is not {shown(texts[0])}")


@rule("prompts.suffix", requests=2, tokens=70)
def suffix(subject: Subject) -> None:
    """With `suffix` the model fills in the text between; for a model that cannot, it is a 400."""
    between: dict[str, Any] = GREEDY | {"suffix": " and of Italy is Rome."}
    response = subject.ask(**between)
    if response.status_code == 400:
        failed(subject, response, 400, "INVALID_REQUEST_BODY")
        require("suffix" in message_of(response), f"the message names no suffix: {shown(response.text)}")
        return
    seen = reply_of(response)["usage"]["prompt_tokens"]
    plain = subject.complete(**GREEDY)["usage"]["prompt_tokens"]
    require(seen > plain, f"prompt_tokens is {seen}, and {plain} without a suffix")


def _ids(subject: Subject, prompt: str, **fields: Any) -> list[int]:
    """The prompt's token ids, as the server returns them."""
    asked = GREEDY | {"max_tokens": 1, "prompt": prompt, "return_token_ids": True}
    ids = subject.choice(**asked, **fields).get("prompt_token_ids")
    require(isinstance(ids, list) and ids, f"prompt_token_ids is {shown(ids)}")
    return list(ids or [])
