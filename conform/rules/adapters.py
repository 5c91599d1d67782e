"""Adapters: ids of their own in the list, and what answers under them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from conform.rules import table
from conform.subject.ends import Skipped, require, shown
from conform.subject.refusal import refuses
from conform.subject.rule import rule
from conform.subject.server import Subject

NOT_OPENAIS = {"openai": "there are no adapters"}
AS_ITS_MODEL = (
    "context_size", "max_model_len", "vocab_size", "bos_token_id", "eos_token_ids", "special_tokens",
)  # fmt: skip


def _adapters(subject: Subject) -> list[dict[str, Any]]:
    """The models of the list that have a parent; in vLLM's list, models that are not adapters have null."""
    found = [entry for entry in subject.client.get("/models").json()["data"] if entry.get("parent")]
    if not found:
        raise Skipped("the server lists no adapters")
    return found


@rule("adapters.listed", requests=1, differs=NOT_OPENAIS)
def listed(subject: Subject) -> None:
    """An adapter is listed with its own id, after the model that it names as its `parent`."""
    entries = subject.client.get("/models").json()["data"]
    parents: set[str] = set()
    ids = [entry["id"] for entry in entries]
    require(len(set(ids)) == len(ids), f"ids {shown(ids)}")
    for entry in entries:
        if parent := entry.get("parent"):
            require(parent in parents, f"{entry['id']} has the parent {parent!r}, after {shown(parents)}")
        else:
            parents.add(entry["id"])
    if len(parents) == len(entries):
        raise Skipped("the server lists no adapters")


@rule("adapters.entry", requests=3, differs=NOT_OPENAIS | {"vllm": "the body is FastAPI's own"})
def entry_of_an_adapter(subject: Subject) -> None:
    """`GET …/models/{id}` of an adapter names its parent and has its tokens; the parent names it."""
    adapter = _adapters(subject)[0]
    own, parent = (
        subject.client.get(f"/models/{quote(name)}").json() for name in (adapter["id"], adapter["parent"])
    )
    require(adapter.items() <= own.items(), f"{shown(own)}, and {shown(adapter)} in the list")
    for name in AS_ITS_MODEL:
        require(own.get(name) == parent.get(name), f"{name} is {shown(own.get(name))}, not the parent's")
    require(adapter["id"] in parent.get("adapters", ()), f"the parent names {shown(parent.get('adapters'))}")


@rule("adapters.answer", requests=4, tokens=90, differs=NOT_OPENAIS)
def answer(subject: Subject) -> None:
    """The reply to a request for an adapter names it as `model`, also in a stream; checks are the same."""
    name = _adapters(subject)[0]["id"]
    asked: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": 4}
    reply = subject.complete(**asked)
    require(reply["model"] == name, f"model is {reply['model']!r}")
    chunks = subject.chunks(**asked)
    require({chunk["model"] for chunk in chunks} == {name}, f"model of the chunks is {chunks[0]['model']!r}")
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    require(text == reply["choices"][0]["text"], f"{shown(text)} is not {shown(reply['choices'][0]['text'])}")
    refuses(subject, table.BASE | {"model": name, "top_p": 9}, "top_p")
