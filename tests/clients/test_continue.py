"""Continue's autocomplete, as its editors run it, on a model set up for editors and one that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.clients.findings import Findings
from tests.clients.matrix import CONTINUE, KEY
from tests.clients.witness import witnessing
from tests.serving import serving, tiny_model

pytestmark = pytest.mark.engine

CODER, STRICT = "tiny-qwen-coder", "tiny-qwen-coder-as-it-comes"  # Continue goes by the name for its template
MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
RENAMED = dict(zip(("<reponame>", "<file_sep>", "<filename>", "<gh_stars>"), MARKS, strict=True))
BEFORE, AFTER = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
NUM_TOKENS = 12


def as_coder(tiny: Path, folder: Path) -> Path:
    """The tiny model, with Qwen's marks as four of its special tokens."""
    shutil.copytree(tiny, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    for token in tokenizer["added_tokens"]:
        token["content"] = RENAMED.get(token["content"], token["content"])
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {RENAMED.get(text, text): k for text, k in vocabulary.items()}
    file.write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture(scope="module")
def coder(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("coder")
    path = as_coder(tiny_path, folder / "model")
    for_editors = {"limits": {"stop": 16}, "include_stop_text": False}
    models = [tiny_model(path, id=CODER, **for_editors), tiny_model(path, id=STRICT)]
    with serving(folder, {"models": models}) as server:
        server.wait_ready()
        yield server.url()


def complete(url: str, model: str = CODER, **more: Any) -> Any:
    """What the editor shows at its cursor."""
    ask = {"base_url": f"{url}/v1/", "key": KEY, "model": model, "max_tokens": NUM_TOKENS, "transform": False}
    return CONTINUE.run(ask | {"prefix": BEFORE, "suffix": AFTER} | more)


def test_autocomplete_is_what_suffix_gives(coder: str, findings: Findings) -> None:
    """Continue writes the marks of the template into its prompt, which gets what `suffix` with the
    same texts gets."""
    told = complete(coder)
    assert told["errors"] == []
    body = {"model": CODER, "prompt": told["prefix"], "suffix": told["suffix"], "max_tokens": NUM_TOKENS}
    headers = {"authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{coder}/v1/completions", json=body | {"temperature": 0}, headers=headers)
    assert told["completion"] == reply.json()["choices"][0]["text"] != ""
    findings.note(
        CONTINUE,
        "its autocomplete is the text of `suffix`; the model needs `limits: {stop: 16}` and"
        " `include_stop_text: false`, since it sends twelve stop sequences and shows what it is given",
    )


def test_editor_is_told_which_limit_to_raise(coder: str) -> None:
    """Where the model has the documented limit, the message that the editor shows names it."""
    told = complete(coder, STRICT)
    (message,) = told["errors"]
    assert told["completion"] is None
    assert "must have at most 4 sequences" in message


def test_user_who_types_on_frees_the_engine(coder: str) -> None:
    """The editor leaves its request, and the server is done with it."""
    parts = urlsplit(coder)
    with witnessing((str(parts.hostname), int(parts.port or 0))) as witness:
        told = complete(witness.url, max_tokens=1500, types_on_after_s=0.5)
        (post,) = witness.posts()
    assert told["completion"] is None
    assert post.left is not None
