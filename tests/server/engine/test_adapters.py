"""What an engine is told of the adapters that it is to have room for."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine.adapters import KEPT_BYTES, MOST_SLOTS, engine_arguments, rank_of
from server.errors import ConfigurationError
from server.weights.adapters import Adapter


def adapters(*ranks: int, num_bytes: int = 10**6) -> list[Adapter]:
    return [Adapter(f"a{k}", Path(), f"a{k}@", k + 1, rank, num_bytes) for k, rank in enumerate(ranks)]


def test_without_adapters_there_is_no_room() -> None:
    """An engine that has none to serve pays nothing for them."""
    assert engine_arguments([], {"seed": 1}) == {"seed": 1}


@pytest.mark.parametrize(("ranks", "room"), [([1], 1), ([4], 8), ([8, 9], 16), ([320], 320), ([512], 512)])
def test_room_for_the_largest_rank(ranks: list[int], room: int) -> None:
    """The next one that vLLM has."""
    assert rank_of(engine_arguments(adapters(*ranks), {})) == room


@pytest.mark.parametrize(("count", "slots"), [(1, 1), (2, 2), (3, 4), (8, 8), (100, MOST_SLOTS)])
def test_a_slot_for_each_adapter_but_no_more_than_eight(count: int, slots: int) -> None:
    """Those of more adapters wait for a step that has room."""
    assert engine_arguments(adapters(*[8] * count), {})["max_loras"] == slots


def test_memory_bounds_how_many_are_kept() -> None:
    """Large adapters leave earlier; what has a slot is always kept."""
    assert engine_arguments(adapters(8, num_bytes=KEPT_BYTES // 20), {})["max_cpu_loras"] == 20
    assert engine_arguments(adapters(8, 8, num_bytes=KEPT_BYTES), {})["max_cpu_loras"] == 2


def test_what_is_configured_goes_first() -> None:
    """engine_args of the model reserve room for adapters that are to come."""
    found = engine_arguments(adapters(8), {"max_lora_rank": 64, "max_loras": 6})
    assert (found["max_lora_rank"], found["max_loras"]) == (64, 6)


@pytest.mark.parametrize("given", [{"max_lora_rank": 8}, {"enable_lora": False}], ids=str)
def test_too_little_room_is_refused(given: dict[str, object]) -> None:
    """By the adapter's name, before anything starts."""
    with pytest.raises(ConfigurationError, match="adapter a1 has rank 16"):
        engine_arguments(adapters(8, 16), given)
