"""Keys that share an engine: who waits, who makes room, and that no text is another for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import KEYS
from tests.serving import CAPITAL, TINY, Client, serving, tiny_model, wait_for

pytestmark = pytest.mark.engine

NUM_PLACES = 4
BODY: dict[str, Any] = {
    "max_tokens": 120, "ignore_eos": True, "repetition_penalty": 1.1, "frequency_penalty": 0.3,
}  # fmt: skip


def test_a_flood_of_one_key(tmp_path: Path, tiny_path: Path, keys_file: Path) -> None:
    """Another key's requests begin at once; those of the flood that made room for them, more than once, are
    what they would have been without."""
    model = tiny_model(tiny_path, max_num_seqs=NUM_PLACES)
    settings: dict[str, Any] = {"models": [model], "api_keys_file": str(keys_file)}
    with serving(tmp_path, settings) as server, ThreadPoolExecutor(32) as pool:
        server.wait_ready()
        url = server.url()
        with Client(url, KEYS["alice"], TINY) as alice, Client(url, KEYS["bob"], TINY) as bob:
            bodies = [{**BODY, "prompt": f"{CAPITAL} {k}", "temperature": 0} for k in range(8)]
            alone = [alice.choice(**body)["text"] for body in bodies]
            flood = [pool.submit(alice.choice, **body) for body in bodies * 3]  # so that it lasts
            wait_for(lambda: alice.running(TINY) >= NUM_PLACES, 30)
            others = list[Any]()
            for k in range(3):
                others.append(pool.submit(bob.choice, **bodies[k]))
                bob.choice(prompt=CAPITAL, max_tokens=1)
            assert not any(one.done() for one in flood[-NUM_PLACES:]), "no flood any more"
            assert [one.result()["text"] for one in flood] == alone * 3
            assert [one.result()["text"] for one in others] == alone[:3]
