"""Our products of LoRA adapters on the CPU, in the place of vLLM's."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from server.engine.vllm import cpu_lora

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SLOTS = (-1, -1, 0, 2, 2, 2, -1, 1, 0)  # of each row
RANK, NUM_IN, NUM_OUT = 3, 5, 7


def rows(width: int) -> Any:
    torch.manual_seed(0)
    return torch.randn(len(SLOTS), width)


def weights(num_out: int, num_in: int) -> Any:
    torch.manual_seed(1)
    return torch.randn(3, 1, num_out, num_in)


def expected(inputs: Any, stacked: Any, before: Any, scale: float = 1.0) -> Any:
    """Row by row."""
    result = before.clone()
    for k, slot in enumerate(SLOTS):
        if slot >= 0:
            result[k] += scale * (stacked[slot, 0] @ inputs[k])
    return result


def runs() -> tuple[Any, ...]:
    """As vLLM tells of them."""
    found, lengths = torch.tensor(SLOTS).unique_consecutive(return_counts=True)
    return lengths.cumsum(0) - lengths, lengths, found, len(found), int(lengths.max()), len(SLOTS)


@pytest.mark.parametrize("by_row", [True, False])
def test_a_row_without_an_adapter_stays_as_it_is(by_row: bool) -> None:
    """And each other one gets its own adapter's product, whichever rows are beside it."""
    a, b, inputs = weights(RANK, NUM_IN), weights(NUM_OUT, RANK), rows(NUM_IN)
    shrunk, output = torch.zeros(len(SLOTS), RANK), rows(NUM_OUT + 4)
    before = output.clone()
    if by_row:
        slots = torch.tensor(SLOTS)
        cpu_lora.bgmv_shrink(inputs, a, shrunk, slots, 0.5)
        cpu_lora.bgmv_expand_slice(shrunk, b, output, slots, 2, NUM_OUT)
    else:
        cpu_lora.sgmv_shrink(inputs, a, shrunk, *runs(), 0.5)
        cpu_lora.sgmv_expand_slice(shrunk, b, output, *runs(), 2, NUM_OUT, True)
    assert torch.allclose(shrunk, expected(inputs, a, torch.zeros_like(shrunk), 0.5), atol=1e-6)
    wanted = expected(shrunk, b, before[:, 2 : 2 + NUM_OUT])
    assert torch.allclose(output[:, 2 : 2 + NUM_OUT], wanted, atol=1e-6)
    assert torch.equal(output[:, :2], before[:, :2])
    assert torch.equal(output[:, 2 + NUM_OUT :], before[:, 2 + NUM_OUT :])


def test_padding_is_left_out() -> None:
    """Where the weights reach further than the output, or less far."""
    b, inputs = weights(NUM_OUT, RANK), rows(RANK)
    for width in (NUM_OUT - 2, NUM_OUT, NUM_OUT + 2):
        output, common = torch.zeros(len(SLOTS), width), min(width, NUM_OUT)
        cpu_lora.bgmv_expand(inputs, b, output, torch.tensor(SLOTS))
        wanted = expected(inputs, b[:, :, :common], torch.zeros(len(SLOTS), common))
        assert torch.allclose(output[:, :common], wanted, atol=1e-6)
        assert not output[:, common:].any()


def test_they_are_called_as_vllms_own() -> None:
    """With as many arguments, of which as many have defaults."""
    from vllm.lora.ops.torch_ops import lora_ops

    def shape(function: Any) -> list[bool]:
        return [one.default is one.empty for one in inspect.signature(function).parameters.values()]

    for function in cpu_lora.OWN:
        assert shape(function) == shape(getattr(lora_ops, function.__name__)), function.__name__


def test_vllm_takes_the_last_adapter_for_none() -> None:
    """Why there are ours: where this fails, vLLM has mended it, and ours may go."""
    from vllm.lora.ops.torch_ops import bgmv_shrink

    shrunk = torch.zeros(len(SLOTS), RANK)
    bgmv_shrink(rows(NUM_IN), weights(RANK, NUM_IN), shrunk, torch.tensor(SLOTS))
    assert shrunk[0].any()
