"""docs/calling/moving.md knows every field of vLLM's own request."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

from server.contract.request import CompletionRequest
from server.contract.unsupported import NEUTRAL
from tests.docs.blocks import ROOT

FIELDS = "entrypoints/openai/completion/protocol.py"


def vllms_fields() -> set[str]:
    """By name, from the source of the vLLM that is installed."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / FIELDS).read_text("utf-8"))
    (request,) = (
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == CompletionRequest.__name__
    )
    targets = [node.target for node in request.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name) and target.id[0] != "_"}


def test_every_field_is_taken_refused_or_ignored() -> None:
    """What we do not have is in one of the page's two lists, the first of which is what is refused."""
    page = (ROOT / "docs/calling/moving.md").read_text("utf-8")
    lists = page.partition("**vLLM's fields that are not here.**")[2]
    refused, ignored = (set(re.findall(r"`(\w+)`", part)) for part in lists.split("Ignored"))
    missing = vllms_fields() - set(CompletionRequest.model_fields)
    assert missing == (refused | ignored) - {"echo", "logprobs"}
    assert refused & missing == missing & set(NEUTRAL)
