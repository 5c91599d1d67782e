"""Engine arguments of vLLM that would break a rule of this server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.config.engine_args import (
    NEUTRAL,
    OFFLOADING,
    OWN_KEYS,
    PASSED_ON_CPU,
    REFUSED,
    REFUSED_ON_CPU,
    refusal,
    refusal_on_cpu,
)
from server.config.model import ModelSettings
from server.engine.vllm import devices
from server.engine.vllm.devices import check_engine_args
from server.errors import ConfigurationError

# A value that is no neutral one, for those that have another type than a string.
VALUES: dict[str, Any] = {
    "data_parallel_size": 2,
    "data_parallel_rank": 0,
    "data_parallel_size_local": 2,
    "data_parallel_start_rank": 0,
    "nnodes": 2,
    "node_rank": 1,
    "_api_process_count": 2,
    "_api_process_rank": 1,
    "logits_processors": ["a:B"],
    "skip_tokenizer_init": False,
    "watermark_config": {"algorithm": "x"},
    "stream_interval": 2,
    "structured_outputs_config": {"disable_any_whitespace": True},
    "aux_output_config": {"enable_return_routed_experts": True},
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name_with_the_reason(name: str) -> None:
    """Wherever settings are read, so `verbatim check` says it too."""
    value = VALUES.get(name, "on")
    with pytest.raises(ValueError, match=f'engine_args has "{name}: .*", which is refused: .*'):
        ModelSettings(id="m", path=Path("m"), engine_args={name: value})
    assert REFUSED[name] in str(refusal(name, value))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_neutral_values_pass(name: str) -> None:
    """What changes nothing may be said."""
    for value in (None, *NEUTRAL.get(name, (False,))):
        assert refusal(name, value) is None


@pytest.mark.parametrize("name", sorted(OWN_KEYS))
def test_what_a_key_says(name: str) -> None:
    """It is not said twice."""
    assert f'set "{OWN_KEYS[name]}" as a key of the model' in str(refusal(name, 1))


def connector(name: str) -> dict[str, str]:
    return {"kv_connector": name, "kv_role": "kv_both"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_offloading_size", 4.0),
        ("kv_transfer_config", connector("OffloadingConnector")),
        ("kv_transfer_config", connector("SimpleCPUOffloadConnector")),
        ("offload_group_size", 2),
        ("offload_backend", "prefetch"),
    ],
)
def test_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """What its build of vLLM says late, or as if another try might help; on a GPU it is passed on."""
    model = ModelSettings(id="m", path=Path("m"), engine_args={name: value})
    monkeypatch.setattr(devices, "installed", lambda package: None)
    check_engine_args(model)
    monkeypatch.setattr(devices, "installed", lambda package: "0.32.0")
    with pytest.raises(ConfigurationError, match=f'model m: engine_args has "{name}: .* on a CPU: .* GPU'):
        check_engine_args(model)


@pytest.mark.parametrize("name", sorted(REFUSED_ON_CPU))
def test_what_passes_on_a_cpu(name: str) -> None:
    """What changes nothing, and what is not known to fail."""
    nothing: tuple[Any, ...] = (None, 0, 0.0, {})
    assert [refusal_on_cpu(name, value) for value in nothing] == [None] * 4
    for value in PASSED_ON_CPU.get(name, ()):
        assert refusal_on_cpu(name, connector(value) if name == "kv_transfer_config" else value) is None


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"kv_connector": "NixlConnector", "kv_role": "kv_both"}, "offload"),
        ({"kv_connector": "OffloadingConnector", "kv_role": "kv_producer"}, "kv_role kv_producer"),
        ({"kv_connector": "MultiConnector"}, "offload"),
        ({"kv_connector": "OffloadingConnector", "kv_load_failure_policy": "recompute"}, "recompute"),
        ({}, "offload"),
    ],
)
def test_kv_transfer_between_engines(config: dict[str, Any], word: str) -> None:
    """Only what keeps an engine's own is served."""
    assert word in str(refusal("kv_transfer_config", config))


@pytest.mark.parametrize("connector", sorted(OFFLOADING))
def test_kv_offloading(connector: str) -> None:
    """It is the engine's own that comes back."""
    assert refusal("kv_transfer_config", {"kv_connector": connector, "kv_role": "kv_both"}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("load_format", "pt"),
        ("load_format", "npcache"),
        ("distributed_executor_backend", "external_launcher"),
    ],
)
def test_values_that_are_refused(name: str, value: str) -> None:
    """Of arguments that are otherwise passed on."""
    assert f'"{name}: {value}", which is refused' in str(refusal(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("load_format", "dummy"),
        ("distributed_executor_backend", "mp"),
        ("enable_prefix_caching", False),
        ("enable_chunked_prefill", False),
        ("async_scheduling", True),
        ("kv_offloading_size", 4.0),
        ("enable_batch_sharded_sampling", True),
        ("unknown", {"a": [1]}),
    ],
)
def test_everything_else_is_passed_on(name: str, value: Any) -> None:
    """vLLM knows what it means, and refuses what it does not know."""
    assert refusal(name, value) is None
