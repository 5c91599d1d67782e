"""The torch transforms against the specification, transformers' processors and vLLM's own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampling import reference
from sampling.batch import Batch, Row
from sampling.params import RowParams
from sampling.reference import Logits
from tests.sampling.torch.specification import before_temperature

torch = pytest.importorskip("torch", reason="the transforms' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

VOCAB_SIZE = 29
# float32 has 24 bits; bias, penalties and temperature round at most five times, each by half a bit of up to
# about 100.
TOLERANCE = 100 * 5 * 2.0**-24

logit = st.one_of(st.floats(-30, 30, width=32), st.just(0.0), st.just(-np.inf))
rows_of_logits = st.lists(st.lists(logit, min_size=VOCAB_SIZE, max_size=VOCAB_SIZE), min_size=1, max_size=4)
ids = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12)
params = st.builds(
    RowParams,
    logit_bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-100, 100, width=32), max_size=4),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.25, 2.0]),
    frequency_penalty=st.sampled_from([0.0, -2.0, 0.3, 2.0]),
    presence_penalty=st.sampled_from([0.0, -2.0, 0.3, 2.0]),
)


def applied(logits: Logits, *rows: Row) -> Logits:
    """Our transforms on a batch in which row k is rows[k]; [num_rows, vocab_size]."""
    from sampling.transforms import Transforms

    batch = Batch()
    for number, row in enumerate(rows):
        batch.put(number, row)
    transforms = Transforms(batch, torch.device("cpu"))
    return transforms.apply(torch.tensor(logits, dtype=torch.float32)).numpy().astype(np.float64)


@settings(max_examples=200, deadline=None)
@given(st.data(), rows_of_logits)
def test_equals_the_specification(data: st.DataObject, logits: list[list[float]]) -> None:
    """Every row comes out as the reference has it, its neighbours' parameters notwithstanding."""
    drawn = [(data.draw(params), data.draw(ids), data.draw(ids)) for _ in logits]
    got = applied(np.array(logits), *(Row(p, prompt, [], output) for p, prompt, output in drawn))
    for row, (p, prompt, output), given_logits in zip(got, drawn, logits, strict=True):
        wanted = before_temperature(np.array(given_logits), p, prompt, output)
        np.testing.assert_allclose(row, wanted, atol=TOLERANCE)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-80, 80), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE),
    st.sampled_from([0.02, 0.3, 1.0]),
)
def test_min_p_keeps_what_transformers_keeps(steps: list[int], value: float) -> None:
    """Of logits that are eighths, so that none rounds to the border, the kept set is MinPLogitsWarper's."""
    from transformers import MinPLogitsWarper

    logits = np.array([steps]) / 8
    kept = np.isfinite(applied(logits, Row(RowParams(min_p=value), [], [], [])))
    theirs = MinPLogitsWarper(value)(None, torch.tensor(logits, dtype=torch.float32))
    assert kept.tolist() == torch.isfinite(theirs).tolist()


@settings(max_examples=200, deadline=None)
@given(rows_of_logits, ids.filter(bool), st.sampled_from([0.5, 1.1, 2.0]))
def test_repetition_equals_transformers(logits: list[list[float]], seen: list[int], penalty: float) -> None:
    """The repetition penalty is RepetitionPenaltyLogitsProcessor's, bit for bit but for the last place."""
    from transformers import RepetitionPenaltyLogitsProcessor

    row = logits[:1]
    ours = applied(np.array(row), Row(RowParams(repetition_penalty=penalty), seen, [], []))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([seen]), torch.tensor(row, dtype=torch.float32)
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=2.0**-22)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(VOCAB_SIZE)), st.sampled_from([1, 3, 128]))
def test_top_k_of_the_specification(steps: list[int], k: int) -> None:
    """The specification keeps what TopKLogitsWarper keeps, of logits without ties."""
    from transformers import TopKLogitsWarper

    logits = np.array(steps) / 8
    theirs = TopKLogitsWarper(k)(None, torch.tensor([steps], dtype=torch.float32) / 8)[0]
    assert np.isfinite(reference.top_k(logits, k)).tolist() == torch.isfinite(theirs).tolist()


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(VOCAB_SIZE)), st.sampled_from([0.1, 0.55, 0.9, 0.999]))
def test_top_p_of_the_specification(order: list[int], p: float) -> None:
    """The specification keeps what TopPLogitsWarper keeps, of logits without ties."""
    from transformers import TopPLogitsWarper

    logits = np.array(order) / 8
    theirs = TopPLogitsWarper(p)(None, torch.tensor(logits, dtype=torch.float64)[None])[0]
    assert np.isfinite(reference.top_p(logits, p)).tolist() == torch.isfinite(theirs).tolist()


@settings(max_examples=100, deadline=None)
@given(rows_of_logits, ids.filter(bool), ids, params)
def test_penalties_equal_vllm(
    logits: list[list[float]], prompt: list[int], output: list[int], p: RowParams
) -> None:
    """Repetition, frequency and presence together are vLLM's apply_penalties, within rounding."""
    from vllm.model_executor.layers.utils import apply_penalties

    row = np.array(logits[:1])
    p = RowParams({}, p.repetition_penalty, p.frequency_penalty, p.presence_penalty)
    ours = applied(row, Row(p, prompt, [], output))
    per_row = (torch.tensor([v]) for v in (p.presence_penalty, p.frequency_penalty, p.repetition_penalty))
    # vLLM pads with the vocabulary's size
    outputs = torch.tensor([[*output, VOCAB_SIZE]])
    theirs = apply_penalties(
        torch.tensor(row, dtype=torch.float32), torch.tensor([prompt]), outputs, *per_row
    )
    np.testing.assert_allclose(ours, theirs.numpy(), atol=TOLERANCE)
