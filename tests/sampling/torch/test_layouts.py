"""Logits as vLLM's runners hand them over: any vocabulary and type, rows any distance apart, any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sampling.batch import Batch, Row
from sampling.params import RowParams
from tests.sampling.torch.specification import before_temperature

torch = pytest.importorskip("torch", reason="the transforms' torch is part of the engine's packages")
pytestmark = pytest.mark.engine

# As in test_transforms.py.
TOLERANCE = 100 * 5 * 2.0**-24
PARAMS = (
    RowParams({0: 2.0, 100: -5.0}, 1.4, 0.3, -0.6, min_p=1e-6),
    RowParams(repetition_penalty=2.0),
    RowParams({5: 1.0}, min_p=0.01),
)
PROMPT, OUTPUT = [1, 2, 100], [3, 3, 126]


def transforms_of(rows: list[Row], device: str = "cpu") -> Any:
    from sampling.transforms import Transforms

    batch = Batch()
    for number, row in enumerate(rows):
        batch.put(number, row)
    return Transforms(batch, torch.device(device))


def handed_over(vocab_size: int, dtype: Any) -> Any:
    """As the V1 runner has them: the model's, without what pads its vocabulary to 64, made float32."""
    padded = -(-vocab_size // 64) * 64
    model = 8 * torch.randn(len(PARAMS), padded, generator=torch.Generator().manual_seed(0))
    model[:, vocab_size:] = torch.nan
    return model.to(dtype)[..., :vocab_size].to(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab_size", [128, 129, 144, 65_536, 65_537, 65_552])
def test_any_vocabulary_and_type(vocab_size: int, dtype: Any) -> None:
    """Whatever the vocabulary is a multiple of, each row is the reference's; what pads it is left alone."""
    logits = handed_over(vocab_size, dtype)
    is_part = dtype == torch.float32 and vocab_size % 64 > 0
    assert logits.is_contiguous() is not is_part
    before = logits.numpy().astype(np.float64)
    got = transforms_of([Row(params, PROMPT, [], OUTPUT) for params in PARAMS]).apply(logits)
    assert got is logits
    for params, row, after in zip(PARAMS, before, got.numpy(), strict=True):
        wanted = before_temperature(row, params, PROMPT, OUTPUT)
        np.testing.assert_allclose(after, wanted, atol=TOLERANCE)
    everything = torch.as_strided(logits, (logits.untyped_storage().nbytes() // 4,), (1,))
    assert int(everything.isnan().sum()) == len(everything) - logits.numel()


def test_steps_of_several_layouts() -> None:
    """Rows that are a part of longer ones in one step and whole in the next keep what they have counted."""
    output: list[int] = []
    transforms = transforms_of([Row(RowParams(frequency_penalty=1.0), [], [], output) for _ in range(2)])
    for step, stride in enumerate([10, 10, 16, 10]):
        logits = torch.zeros(2, stride)[:, :10]
        output.append(7)
        assert transforms.apply(logits)[:, 7].tolist() == [-step - 1.0] * 2


@pytest.mark.parametrize("which", [[0, 1, 2], [2], [0, 2]])
def test_nothing_is_left_on_the_host(which: list[int]) -> None:
    """On a device, each operation's tensors are that device's, and none waits for it."""
    from tests.sampling.torch.devices import OneDevice

    transforms = transforms_of([Row(PARAMS[k], PROMPT, [], OUTPUT) for k in which], "meta")
    with OneDevice():
        logits = torch.zeros(len(which) + 1, 144, device="meta")[:, :129]
        assert transforms.apply(logits).shape == (len(which) + 1, 129)


def test_what_has_not_changed_is_not_sent_again() -> None:
    """A step sends nothing of what stays the same: counts where tokens came, pairs where new ones did."""
    from tests.sampling.torch.devices import OneDevice

    output: list[int] = []
    transforms = transforms_of([Row(PARAMS[0], PROMPT, [], output)], "meta")

    def num_sent(*generated: int) -> int:
        output.extend(generated)
        with OneDevice() as mode:
            transforms.apply(torch.zeros(1, 128, device="meta"))
        return mode.num_sent

    assert num_sent() == 9  # all arrays of a batch
    assert num_sent() == 0
    assert num_sent(2) == 1  # counts
    assert num_sent(99) == 5  # the pairs' arrays
    assert num_sent() == 0
