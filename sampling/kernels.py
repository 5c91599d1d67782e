"""The transforms of reference.py in Triton, for vLLM's V2 model runner: in place, on the device.

What a request has seen stays on the device: `take_in` reads what is new in the runner's own history of
tokens, so the host waits for nothing. The state in bytes a slot, all of it made at the start:
    48              parameters
    4096            biases
    vocab_size / 8  which tokens were seen
    4 × vocab_size  times generated
At 1024 slots and 128,000 tokens: 520 MiB. As much goes to vLLM's own penalties, which stay unused. A step
takes 4 bytes for each 4096 logits, and a row of logits for each long list of biases, one after the other.

Order: `take_in`, `add_bias`, `penalise`, `mask_min_p`, then draw_kernels.py. Block sizes and warps are
reasoned, not measured: no GPU was at hand.
"""
# Triton's constants are in capitals, and its language has no types; the launchers have.
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

# Columns of SlotTables.real.
REPETITION, FREQUENCY, PRESENCE, BORDER, TEMPERATURE, TOP_P = (tl.constexpr(column) for column in range(6))
NUM_COLUMNS = tl.constexpr(6)

# 16 logits per thread: each has four loads of 16 bytes in flight, and 128k tokens are 32 programs per row, so
# that many processors have work even with one row.
LOGITS_BLOCK, LOGITS_WARPS = 4096, 8
# A step adds one token; a long prompt comes once. One warp: see the end of the kernel.
TAKE_IN_BLOCK = 1024
# Requests bias a handful of tokens, rarely 300: one program per row.
BIAS_BLOCK = 256


@dataclass(slots=True)
class SlotTables:
    """What the kernels know of each slot, on the device.

    real: [num_slots, 6] float32: repetition, frequency, presence, temperature × ln(min_p), temperature (0:
    does not draw), top_p (1: off). Neutral: 1, 0, 0, -inf, 0, 1.
    """

    real: torch.Tensor
    top_k: torch.Tensor  # [num_slots] int32, 0: off
    seeds: torch.Tensor  # [num_slots] int64: noise.mix of each
    output_from: torch.Tensor  # [num_slots] int32: first position that is output
    num_biases: torch.Tensor  # [num_slots] int32: of bias_ids and bias_values
    num_taken: torch.Tensor  # [num_slots] int32: tokens of the history that are in seen and counts
    seen: torch.Tensor  # [num_slots, ceil(vocab_size / 32)] int32: token t is bit t % 32 of word t // 32
    # [num_slots, vocab_size] int32, as atomics want them: times generated, where frequency or presence asks
    counts: torch.Tensor
    bias_ids: torch.Tensor  # [num_slots, room] int32
    bias_values: torch.Tensor  # [num_slots, room] float32


@triton.jit(do_not_specialize_on_alignment=["idx_mapping"])
def _take_in_kernel(
    idx_mapping,  # [num_reqs] int32: slots
    all_token_ids,  # [num_slots, max_model_len] int32
    history_stride,
    total_len,  # [num_slots] int32
    real,  # [num_slots, 6] float32
    output_from_of,  # [num_slots] int32
    num_taken,  # [num_slots] int32, changed
    seen,  # [num_slots, num_words] int32, changed
    seen_stride,
    counts,  # [num_slots, vocab_size] int32, changed
    counts_stride,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Update seen and counts to the slot's history. One program per request.

    Reference: what `repetition` takes as seen, `frequency` and `presence` as output. Why faster: vLLM counts
    in the same way, but clears and fills a row of 4 × vocab_size bytes for every request with a penalty.
    Bytes moved: 4 per new token, and a 32-byte sector each of seen and counts read and written.
    """
    slot = tl.load(idx_mapping + tl.program_id(0)).to(tl.int64)
    repetition = tl.load(real + slot * NUM_COLUMNS + REPETITION)
    frequency = tl.load(real + slot * NUM_COLUMNS + FREQUENCY)
    presence = tl.load(real + slot * NUM_COLUMNS + PRESENCE)
    if (repetition == 1.0) & (frequency == 0.0) & (presence == 0.0):
        return
    output_from = tl.load(output_from_of + slot)
    start = tl.load(num_taken + slot)
    end = tl.load(total_len + slot)
    if repetition == 1.0:  # only the repetition penalty uses the prompt
        start = tl.maximum(start, output_from)
    counted_from = tl.where((frequency != 0.0) | (presence != 0.0), output_from, end)
    for first in range(start, end, BLOCK):
        position = first + tl.arange(0, BLOCK)
        token_id = tl.load(all_token_ids + slot * history_stride + position, mask=position < end, other=-1)
        is_token = (token_id >= 0) & (token_id < vocab_size)  # a broken id must not write into other slots
        bit = tl.full((BLOCK,), 1, tl.int32) << (token_id % 32)
        tl.atomic_or(seen + slot * seen_stride + token_id // 32, bit, mask=is_token)
        here = counts + slot * counts_stride + token_id
        tl.atomic_add(here, 1, mask=is_token & (position >= counted_from))
    # With several warps, one could store this before another has loaded it: so the kernel runs with one.
    tl.store(num_taken + slot, end)


def take_in(
    tables: SlotTables,  # num_taken, seen and counts are changed in place
    idx_mapping: torch.Tensor,  # [num_reqs] int32: the batch's slots
    all_token_ids: torch.Tensor,  # [num_slots, max_model_len] int32
    total_len: torch.Tensor,  # [num_slots] int32: tokens in each row of all_token_ids
    block: int = TAKE_IN_BLOCK,
) -> None:
    assert all_token_ids.stride(1) == 1
    history = (all_token_ids, all_token_ids.stride(0), total_len)
    seen, counts = (tables.seen, tables.seen.stride(0)), (tables.counts, tables.counts.stride(0))
    state = (tables.real, tables.output_from, tables.num_taken, *seen, *counts)
    vocab_size = tables.counts.shape[1]
    _take_in_kernel[(len(idx_mapping),)](idx_mapping, *history, *state, vocab_size, BLOCK=block, num_warps=1)


@triton.jit(do_not_specialize_on_alignment=["slot_of_row"])
def _bias_kernel(
    logits,  # [num_rows, vocab_size] float32, changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    num_biases,  # [num_slots] int32
    bias_ids,  # [num_slots, room] int32
    bias_values,  # [num_slots, room] float32
    room,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Add the slot's biases to a row. One program per row and block of its biases.

    Reference: `logit_bias`. Why faster: only biased logits are touched, as in vLLM, whose lists end at 1024
    and take 8 KiB per slot. Bytes moved: 8 per bias, and a 32-byte sector of logits read and written.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    end = tl.load(num_biases + slot)
    first = tl.program_id(1) * BLOCK
    if first >= end:
        return
    entry = first + tl.arange(0, BLOCK)
    token_id = tl.load(bias_ids + slot * room + entry, mask=entry < end, other=-1)
    value = tl.load(bias_values + slot * room + entry, mask=entry < end, other=0.0)
    inside = (token_id >= 0) & (token_id < vocab_size)
    here = logits + row * logits_stride + token_id  # no id appears twice in a list: no atomics
    tl.store(here, tl.load(here, mask=inside, other=0.0) + value, mask=inside)


def add_bias(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, changed in place
    tables: SlotTables,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    most: int,  # length of the longest list in the batch
    block: int = BIAS_BLOCK,
) -> None:
    check(logits, tables)
    grid = (len(logits), triton.cdiv(most, block))
    biases = (tables.num_biases, tables.bias_ids, tables.bias_values, tables.bias_ids.stride(0))
    _bias_kernel[grid](
        logits, logits.stride(0), slot_of_row, *biases, logits.shape[1], BLOCK=block, num_warps=1
    )


def add_long_bias(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, changed in place
    slot_of_row: torch.Tensor,  # [num_rows] int32
    slot: int,  # the slot with these biases
    ids: torch.Tensor,  # [num_biases] int32, on the host
    values: torch.Tensor,  # [num_biases] float32, on the host
) -> None:
    """Add a list of biases that is too long for the table. Rare: it passes over every logit of the batch."""
    row = logits.new_zeros(logits.shape[1])
    row[ids.to(logits.device, non_blocking=True)] = values.to(logits.device, non_blocking=True)
    logits.addr_((slot_of_row == slot).float(), row)


@triton.jit(do_not_specialize_on_alignment=["slot_of_row", "local_pos", "input_ids"])
def _penalise_kernel(
    logits,  # [num_rows, vocab_size] float32, changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    local_pos,  # [num_rows] int32: the row's place among its request's rows
    input_ids,  # [num_rows] int32 or int64: from a request's second row on, its draft tokens
    real,  # [num_slots, 6] float32
    seen,  # [num_slots, num_words] int32
    seen_stride,
    counts,  # [num_slots, vocab_size] int32
    counts_stride,
    maxima,  # [num_rows, num_blocks] float32, written for rows with min_p
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Repetition, frequency and presence of one block of a row, and its largest logit for min_p.

    Reference: `repetition`, `frequency`, `presence`, in this order; draft tokens before the row are output.
    Why faster: one bit per token says which logits to touch; the others and their counts are neither read nor
    written. vLLM reads every count, and reads and writes every logit. Bytes moved per row: vocab_size / 8,
    and per seen token a 32-byte sector of counts read, one of logits read and written. With min_p every logit
    is read: 4 × vocab_size.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    repetition = tl.load(real + slot * NUM_COLUMNS + REPETITION)
    frequency = tl.load(real + slot * NUM_COLUMNS + FREQUENCY)
    presence = tl.load(real + slot * NUM_COLUMNS + PRESENCE)
    has_history = (repetition != 1.0) | (frequency != 0.0) | (presence != 0.0)
    has_min_p = tl.load(real + slot * NUM_COLUMNS + BORDER) > float("-inf")
    if not (has_history | has_min_p):
        return
    # The part of the vocabulary that is needed: all or nothing.
    history_end = tl.where(has_history, vocab_size, 0)
    counts_end = tl.where((frequency != 0.0) | (presence != 0.0), vocab_size, 0)
    min_p_end = tl.where(has_min_p, vocab_size, 0)
    token_id = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    words = tl.load(seen + slot * seen_stride + token_id // 32, mask=token_id < history_end, other=0)
    is_seen = ((words >> (token_id % 32)) & 1) != 0
    is_counted = is_seen & (token_id < counts_end)
    count = tl.load(counts + slot * counts_stride + token_id, mask=is_counted, other=0)
    num_drafts = tl.load(local_pos + row)
    for k in range(num_drafts):
        is_draft = tl.load(input_ids + row - num_drafts + 1 + k) == token_id
        is_seen = is_seen | is_draft
        count += is_draft.to(tl.int32)
    is_touched = is_seen & (token_id < history_end)
    here = logits + row * logits_stride + token_id
    logit = tl.load(here, mask=is_touched | (token_id < min_p_end), other=float("-inf"))
    penalised = tl.where(logit > 0, logit / repetition, logit * repetition)
    penalised -= frequency * count
    penalised -= tl.where(count > 0, presence, 0.0)
    tl.store(here, penalised, mask=is_touched)
    if has_min_p:
        largest = tl.max(tl.where(is_touched, penalised, logit))
        tl.store(maxima + row * tl.num_programs(1) + tl.program_id(1), largest)


def penalise(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, changed in place
    tables: SlotTables,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    local_pos: torch.Tensor,  # [num_rows] int32
    input_ids: torch.Tensor,  # [num_rows] int32 or int64
    block: int = LOGITS_BLOCK,
) -> torch.Tensor:  # [num_rows, num_blocks] float32: largest logit of each block, in rows with min_p
    check(logits, tables)
    num_rows, vocab_size = logits.shape
    maxima = torch.empty(num_rows, triton.cdiv(vocab_size, block), dtype=torch.float32, device=logits.device)
    rows = (logits, logits.stride(0), slot_of_row, local_pos, input_ids)
    seen, counts = (tables.seen, tables.seen.stride(0)), (tables.counts, tables.counts.stride(0))
    state = (tables.real, *seen, *counts)
    _penalise_kernel[maxima.shape](*rows, *state, maxima, vocab_size, BLOCK=block, num_warps=LOGITS_WARPS)
    return maxima


@triton.jit(do_not_specialize_on_alignment=["slot_of_row"])
def _min_p_kernel(
    logits,  # [num_rows, vocab_size] float32, changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    real,  # [num_slots, 6] float32
    maxima,  # [num_rows, num_maxima] float32
    num_maxima,
    vocab_size,
    NUM_MAXIMA: tl.constexpr,  # the next power of two
    BLOCK: tl.constexpr,
):
    """Ban what is below the row's largest logit + temperature × ln(min_p), in one block of a row.

    Reference: `min_p`, before temperature. Why faster: vLLM's one program per row passes over it twice. Here
    the penalties' kernel has found the maximum, and blocks run side by side, the last first: what was read
    last may still be in the L2 cache. Bytes moved per row: 4 × vocab_size read, 4 written per banned logit.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    border = tl.load(real + slot * NUM_COLUMNS + BORDER)
    if border == float("-inf"):
        return
    k = tl.arange(0, NUM_MAXIMA)
    largest = tl.max(tl.load(maxima + row * num_maxima + k, mask=k < num_maxima, other=float("-inf")))
    token_id = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK + tl.arange(0, BLOCK)
    inside = token_id < vocab_size
    here = logits + row * logits_stride + token_id
    logit = tl.load(here, mask=inside, other=float("inf"))
    tl.store(here, float("-inf"), mask=inside & (logit < largest + border))


def mask_min_p(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, changed in place
    tables: SlotTables,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    maxima: torch.Tensor,  # [num_rows, num_maxima] float32, from penalise
    block: int = LOGITS_BLOCK,
) -> None:
    check(logits, tables)
    num_rows, vocab_size = logits.shape
    num_maxima = maxima.shape[1]
    rows = (logits, logits.stride(0), slot_of_row, tables.real, maxima, num_maxima, vocab_size)
    sizes = {"NUM_MAXIMA": triton.next_power_of_2(num_maxima), "BLOCK": block}
    _min_p_kernel[(num_rows, triton.cdiv(vocab_size, block))](*rows, **sizes, num_warps=LOGITS_WARPS)


def check(logits: torch.Tensor, tables: SlotTables) -> None:
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    assert logits.shape[1] <= tables.counts.shape[1], (
        "the tables have a column for each token of the vocabulary"
    )
