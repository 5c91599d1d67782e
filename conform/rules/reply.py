"""The reply's shape: its keys, its choices, its usage, and the echoed prompt."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

from conform.subject.ends import require, shown
from conform.subject.rule import rule
from conform.subject.server import PROMPT, Subject

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
KEYS = {"id", "object", "created", "model", "choices", "usage"}
CHOICE_KEYS = {"index", "text", "logprobs", "finish_reason"}
OWN_IDS = {"openai": "ids begin with cmpl-", "vllm": "ids begin with cmpl-"}
NO_NAMES = {"openai": "there is no such field", "vllm": "nothing of the vocabulary"}
NO_ZERO = {"vllm": "max_tokens is at least 1; with echo, 0 means 1, which is not shown"}
MORE_KEYS = {"vllm": "the reply has more keys: service_tier, kv_transfer_params, prompt_logprobs, …"}


@rule("reply.keys", requests=1, tokens=50, differs=MORE_KEYS)
def keys(subject: Subject) -> None:
    """The reply has the documented keys and no others (`system_fingerprint` is allowed)."""
    reply = subject.complete(**GREEDY)
    require(set(reply) - {"system_fingerprint"} == KEYS, f"keys {sorted(reply)}")
    require(set(reply["choices"][0]) == CHOICE_KEYS, f"keys of a choice {sorted(reply['choices'][0])}")
    usage = set(reply["usage"]) - {"completion_tokens_details", "prompt_tokens_details"}
    wanted = {"prompt_tokens", "completion_tokens", "total_tokens"}
    require(usage == wanted, f"keys of usage {sorted(reply['usage'])}")


@rule("reply.no-error-key", requests=1, tokens=50)
def no_error_key(subject: Subject) -> None:
    """A reply has no `error` key, which official SDKs take for an error even when it is null."""
    require("error" not in subject.complete(**GREEDY), "the reply has an error key")


@rule("reply.head", requests=1, tokens=50)
def head(subject: Subject) -> None:
    """`object` is text_completion, `model` the requested name, `created` the current time in
    whole seconds."""
    reply = subject.complete(**GREEDY)
    require(reply["object"] == "text_completion", f"object is {reply['object']!r}")
    require(reply["model"] == subject.model, f"model is {reply['model']!r}")
    created = reply["created"]
    require(isinstance(created, int) and abs(created - time.time()) < 300, f"created is {created!r}")


@rule("reply.id-form", requests=1, tokens=50, differs=OWN_IDS)
def id_form(subject: Subject) -> None:
    """`id` is 32 hex characters."""
    seen = subject.complete(**GREEDY)["id"]
    require(re.fullmatch("[0-9a-f]{32}", str(seen)), f"id is {seen!r}")


@rule("reply.ids-differ", requests=3, tokens=90)
def ids_differ(subject: Subject) -> None:
    """Each reply has an id of its own."""
    ids = {subject.complete(max_tokens=1)["id"] for _ in range(3)}
    require(len(ids) == 3, f"ids of three replies: {sorted(ids)}")


@rule("reply.usage-adds-up", requests=1, tokens=50)
def usage_adds_up(subject: Subject) -> None:
    """`usage` has the prompt's tokens, counted once, the generated tokens, and their sum."""
    usage = subject.complete(**GREEDY, ignore_eos=True)["usage"]
    require(usage["completion_tokens"] == 4, f"{usage} for max_tokens 4")
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    require(usage["prompt_tokens"] > 0 and usage["total_tokens"] == total, f"usage is {usage}")


@rule("reply.logprobs-null", requests=1, tokens=50)
def logprobs_null(subject: Subject) -> None:
    """`logprobs` is null if the request does not ask for it."""
    logprobs = subject.choice(**GREEDY)["logprobs"]
    require(logprobs is None, f"logprobs is {shown(logprobs)}")


@rule("reply.json", requests=1, tokens=50)
def json_type(subject: Subject) -> None:
    """The reply's content type is application/json."""
    kind = subject.ask(**GREEDY).headers.get("content-type", "")
    require(kind.partition(";")[0] == "application/json", f"content type {kind!r}")


@rule("reply.echo", requests=2, tokens=90)
def echo(subject: Subject) -> None:
    """`echo` puts the prompt first, as it was written; completion and usage do not change."""
    plain, echoed = subject.complete(**GREEDY), subject.complete(**GREEDY, echo=True)
    text = echoed["choices"][0]["text"]
    require(text == PROMPT + plain["choices"][0]["text"], f"text is {shown(text)}")
    require(echoed["usage"] == plain["usage"], f"usage is {echoed['usage']}, not {plain['usage']}")


@rule("reply.max-tokens-zero", requests=1, tokens=30, differs=NO_ZERO)
def max_tokens_zero(subject: Subject) -> None:
    """`max_tokens` 0 generates nothing: the text is empty."""
    reply = subject.complete(max_tokens=0)
    require(reply["choices"][0]["text"] == "", f"text is {shown(reply['choices'][0]['text'])}")
    require(reply["usage"]["completion_tokens"] == 0, f"usage is {reply['usage']}")


@rule("reply.max-tokens-zero-with-echo", requests=1, tokens=30, differs=NO_ZERO)
def max_tokens_zero_with_echo(subject: Subject) -> None:
    """`max_tokens` 0 with `echo` returns the prompt, and the finish_reason is `length`."""
    reply = subject.complete(max_tokens=0, echo=True)
    seen = (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"])
    require(seen == (PROMPT, "length"), f"text and finish_reason are {shown(seen)}")
    require(reply["usage"]["completion_tokens"] == 0, f"usage is {reply['usage']}")


def special_token(subject: Subject) -> tuple[str, int]:
    """(name, id) of a special token from the model's entry, with one request. Raises Unmet if the
    entry has none."""
    named = subject.client.get(f"/models/{quote(subject.model)}").json().get("special_tokens")
    require(named, f"special_tokens of the model's entry is {shown(named)}")
    name, token_id = max(named.items(), key=lambda one: len(one[0]))
    return name, token_id


@rule("reply.special-tokens", requests=4, tokens=200, differs=NO_NAMES)
def special_tokens(subject: Subject) -> None:
    """A special token has no text, or with `skip_special_tokens: false` its name;
    `spaces_between_special_tokens` adds no space between two of them."""
    name, token_id = special_token(subject)
    asked = GREEDY | {"ignore_eos": True, "logit_bias": {str(token_id): 100}}
    hidden = subject.choice(**asked)["text"]
    require(hidden == "", f"text is {shown(hidden)}")
    for spaces in (True, False):
        text = subject.choice(**asked, skip_special_tokens=False, spaces_between_special_tokens=spaces)[
            "text"
        ]
        require(text == name * 4, f"text is {shown(text)}, not 4 times {name}")


@rule(
    "reply.token-ids",
    requests=3,
    tokens=150,
    differs={"openai": "there is no such field", "vllm": "the ids are null unless requested"},
)
def token_ids(subject: Subject) -> None:
    """Each choice has the ids of prompt and completion with `return_token_ids`, and only then."""
    asked = GREEDY | {"ignore_eos": True, "prompt": [300, 400, 500]}
    choice = subject.choice(**asked, return_token_ids=True)
    prompt, ids = choice.pop("prompt_token_ids", None), choice.pop("token_ids", None) or []
    require(prompt == asked["prompt"], f"prompt_token_ids is {shown(prompt)}")
    require(len(ids) == 4, f"token_ids is {shown(ids)} for 4 tokens")
    echoed = subject.choice(prompt=ids, max_tokens=1, echo=True)["text"]
    require(
        echoed.startswith(choice["text"]), f"{shown(ids)} are {shown(echoed)}, not {shown(choice['text'])}"
    )
    plain = subject.choice(**asked)
    require(plain == choice, f"without it the choice is {shown(plain)}, not {shown(choice)}")
