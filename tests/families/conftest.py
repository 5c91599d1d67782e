"""One server for all families, each on a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from server.text.tokenizer import load_tokenizer
from server.weights.architecture import read_architecture
from tests.engine.reference import Reference
from tests.families.models import make
from tests.families.table import CONTEXT_SIZE, FAMILIES, Family, by_length
from tests.serving import BESIDE_OTHERS, Client, serving

READY_S = 800  # a dozen engines, each of which imports vLLM: two minutes when nothing else runs


@dataclass
class Model:
    """A family's model as a client sees it, and as transformers does."""

    name: str
    path: Path
    client: Client

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the files as they are. AutoTokenizer would rebuild some families' by
        rules of its own: with LlamaTokenizer of transformers 5, ` a` and `a` have the same ids."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.path)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.path)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Ids by the names that logprobs give them."""
        names = load_tokenizer(self.path, read_architecture(self.path).vocab_size).names
        return {name: token_id for token_id, name in enumerate(names)}

    def id(self, token: str) -> int:
        """Of a token as the tokenizer's files have it."""
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)
        return token_id

    def choice(self, **fields: Any) -> dict[str, Any]:
        return self.client.choice(model=self.name, **fields)


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {name: make(family, folder / name) for name, family in FAMILIES.items()}


@pytest.fixture(scope="session")
def client(
    request: pytest.FixtureRequest, paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """Serves the families that a test of this run asks about."""
    ours = [item for item in request.session.items if item.path.is_relative_to(Path(__file__).parent)]
    parameters = [getattr(item, "callspec", None) for item in ours]
    asked = {one.params.get("model") for one in parameters if one is not None}
    models = [
        {
            "id": name,
            "path": str(path),
            "dtype": "float32",
            "max_model_len": CONTEXT_SIZE,
            "max_num_seqs": 8,
            "kv_cache_gib": 0.02,
            "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 2**25},
            **BESIDE_OTHERS,
        }
        for name, path in paths.items()
        if name in asked
    ]
    with serving(tmp_path_factory.mktemp("server"), {"models": models}) as server:
        server.wait_ready(READY_S)
        with Client(server.url(), "any") as client:
            yield client
        if " ERROR " in server.said():
            print(f"--- the server's log:\n{server.said()}")


@pytest.fixture(scope="session", params=by_length(FAMILIES))
def model(request: pytest.FixtureRequest, paths: dict[str, Path], client: Client) -> Model:
    return Model(request.param, paths[request.param], client)
