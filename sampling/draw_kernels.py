"""The last steps of reference.py in Triton: temperature, top_k, top_p and the draw, for vLLM's V2 runner.

`choose` runs after the kernels of kernels.py. In each row that draws, the winner's logit becomes so large
that vLLM, which takes the largest, takes it; a draft token is accepted if it is the winner. Nothing is
sorted, and nothing else is written: a logit and an id describe what is kept. Block sizes and warps are chosen
by reasoning, not by measurement: no GPU was available.
"""
# Triton's constants are in capitals, and its language has no types; the launchers have.
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sampling import noise, reference
from sampling.kernels import LOGITS_BLOCK, LOGITS_WARPS, NUM_COLUMNS, TEMPERATURE, TOP_P, SlotTables, check

BLOCK_OF_IDS = tl.constexpr(reference.BLOCK)
GAMMA = tl.constexpr(noise.GAMMA)
MULTIPLIER_1, MULTIPLIER_2 = (tl.constexpr(multiplier) for multiplier in noise.MULTIPLIERS)
SHIFT_1, SHIFT_2, SHIFT_3 = (tl.constexpr(shift) for shift in noise.SHIFTS)
FIRST_BLOCK = tl.constexpr(noise.FIRST_BLOCK)
UNUSED_BITS = tl.constexpr(64 - noise.FRACTION_BITS)
FRACTION = tl.constexpr(2.0**-noise.FRACTION_BITS)
WON = tl.constexpr(3e38)  # larger than all other logits, and finite in float32

# One program passes over a row some thirty times for each limit; the row is then in the L2 cache. Many
# threads keep many loads in flight.
SEARCH_BLOCK, SEARCH_WARPS = 4096, 16
NUM_HALVINGS = tl.constexpr(33)  # for the 2**32 float32 numbers
LOWEST, HIGHEST = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)


@triton.jit
def _mix(bits):
    """noise.mix."""
    bits = (bits ^ (bits >> SHIFT_1)) * MULTIPLIER_1
    bits = (bits ^ (bits >> SHIFT_2)) * MULTIPLIER_2
    return bits ^ (bits >> SHIFT_3)


@triton.jit
def _exponential(key, numbers):
    """noise.exponential."""
    bits = _mix(key + (numbers.to(tl.uint64) + 1) * GAMMA) >> UNUSED_BITS
    return -tl.log((bits.to(tl.int64).to(tl.float64) + 0.5) * FRACTION)


@triton.jit
def _rank(logit):
    """An integer for each float32, in the same order; 0 and -0 get the same."""
    bits = (logit + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ HIGHEST, bits)


@triton.jit
def _is_kept(rank, token_id, pivot, last):
    """Whether a rank is above the pivot, or equals the pivot with an id that comes early enough."""
    return (rank > pivot) | ((rank == pivot) & (token_id <= last))


@triton.jit
def _mass(logits, temperature, largest, pivot, last, at_least, vocab_size, BLOCK: tl.constexpr):
    """How many kept tokens of a row have a rank of at least at_least, and the sum of their weights."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float64)
    for first in range(0, vocab_size, BLOCK):
        token_id = first + tl.arange(0, BLOCK)
        logit = tl.load(logits + token_id, mask=token_id < vocab_size, other=float("-inf"))
        rank = _rank(logit)
        is_in = (rank >= at_least) & _is_kept(rank, token_id, pivot, last) & (token_id < vocab_size)
        weight = tl.exp(tl.div_rn(logit, temperature) - largest)
        count += tl.sum(is_in.to(tl.int32))
        mass += tl.sum(tl.where(is_in, weight, 0.0)).to(tl.float64)
    return count, mass


@triton.jit
def _nth_of_rank(logits, rank_wanted, n, vocab_size, BLOCK: tl.constexpr):
    """The id of the row's n-th token with a rank, from 1; HIGHEST if there are fewer."""
    found = tl.full((), HIGHEST, tl.int32)
    num_before = tl.full((), 0, tl.int32)
    for first in range(0, vocab_size, BLOCK):
        token_id = first + tl.arange(0, BLOCK)
        logit = tl.load(logits + token_id, mask=token_id < vocab_size, other=float("-inf"))
        is_equal = ((_rank(logit) == rank_wanted) & (token_id < vocab_size)).to(tl.int32)
        is_nth = (is_equal != 0) & (num_before + tl.cumsum(is_equal) == n)
        found = tl.minimum(found, tl.min(tl.where(is_nth, token_id, HIGHEST)))
        num_before += tl.sum(is_equal)
    return found


@triton.jit(do_not_specialize_on_alignment=["slot_of_row"])
def _limit_kernel(
    logits,  # [num_rows, vocab_size] float32
    logits_stride,
    slot_of_row,  # [num_rows] int32
    real,  # [num_slots, NUM_COLUMNS] float32
    top_k,  # [num_slots] int32
    limits,  # [num_rows, 2] int32, written: pivot and last of _is_kept
    vocab_size,
    BLOCK: tl.constexpr,
):
    """What top_k keeps of a row, and what top_p keeps of that. One program per row.

    Reference: `top_k`, `top_p`. Why faster: bisection finds a limit as a logit, so nothing is sorted or
    written; vLLM's single program per row does the same, and writes the row. Bytes moved per row: 4 ×
    vocab_size from memory, and up to 36 times as much for each limit from the L2 cache.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    temperature = tl.load(real + slot * NUM_COLUMNS + TEMPERATURE)
    p = tl.load(real + slot * NUM_COLUMNS + TOP_P).to(tl.float64)
    k = tl.load(top_k + slot)
    pivot = tl.full((), LOWEST, tl.int32)
    last = tl.full((), HIGHEST, tl.int32)
    has_k = (k > 0) & (k < vocab_size)
    logits += row * logits_stride
    if (temperature > 0.0) & (has_k | (p < 1.0)):
        largest_logit = tl.full((), float("-inf"), tl.float32)
        for first in range(0, vocab_size, BLOCK):
            token_id = first + tl.arange(0, BLOCK)
            logit = tl.load(logits + token_id, mask=token_id < vocab_size, other=float("-inf"))
            largest_logit = tl.maximum(largest_logit, tl.max(logit))
        largest = tl.div_rn(largest_logit, temperature)
        above_all = _rank(largest_logit).to(tl.int64) + 1
        if has_k:
            low, high = tl.full((), LOWEST, tl.int64), above_all
            for _ in range(NUM_HALVINGS):
                middle = (low + high) >> 1
                count, _mass_there = _mass(
                    logits, temperature, largest, LOWEST, HIGHEST, middle, vocab_size, BLOCK
                )
                low, high = tl.where(count >= k, middle, low), tl.where(count >= k, high, middle)
            pivot = low.to(tl.int32)
            num_above, _mass_above = _mass(
                logits, temperature, largest, LOWEST, HIGHEST, low + 1, vocab_size, BLOCK
            )
            last = _nth_of_rank(logits, pivot, k - num_above, vocab_size, BLOCK)
        if p < 1.0:
            _all, whole = _mass(logits, temperature, largest, pivot, last, LOWEST, vocab_size, BLOCK)
            enough = p * whole
            low, high = pivot.to(tl.int64), above_all
            for _ in range(NUM_HALVINGS):
                middle = (low + high) >> 1
                _count, mass = _mass(logits, temperature, largest, pivot, last, middle, vocab_size, BLOCK)
                low, high = tl.where(mass >= enough, middle, low), tl.where(mass >= enough, high, middle)
            up_to, with_it = _mass(logits, temperature, largest, pivot, last, low, vocab_size, BLOCK)
            num_above, above = _mass(logits, temperature, largest, pivot, last, low + 1, vocab_size, BLOCK)
            each = (with_it - above) / (up_to - num_above).to(tl.float64)
            needed = tl.maximum(tl.ceil((enough - above) / each), 1.0)
            needed = tl.minimum(needed, (up_to - num_above).to(tl.float64)).to(tl.int32)
            pivot = low.to(tl.int32)
            last = _nth_of_rank(logits, pivot, needed, vocab_size, BLOCK)
    tl.store(limits + 2 * row, pivot)
    tl.store(limits + 2 * row + 1, last)


@triton.jit(do_not_specialize=["has_limits"], do_not_specialize_on_alignment=["slot_of_row"])
def _weigh_kernel(
    logits,  # [num_rows, vocab_size] float32
    logits_stride,
    slot_of_row,  # [num_rows] int32
    real,  # [num_slots, NUM_COLUMNS] float32
    limits,  # [num_rows, 2] int32
    largest,  # [num_rows, num_blocks] float32, written: of the block's kept logits over temperature
    sums,  # [num_rows, num_blocks] float32, written: of the block's exp(logit over temperature - largest)
    num_blocks,
    vocab_size,
    has_limits,  # bool; a constant would need a second version of the kernel, compiled while others wait
    BLOCK: tl.constexpr,
):
    """The weight of each block of token ids, of one part of a row.

    Reference: `temperature`, `softmax`, the sums of `draw`. Why faster: both passes of a softmax in one, and
    nothing written back. Bytes moved per row: 4 × vocab_size.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    temperature = tl.load(real + slot * NUM_COLUMNS + TEMPERATURE)
    if temperature == 0.0:
        return
    token_id = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token_id < vocab_size
    logit = tl.load(logits + row * logits_stride + token_id, mask=inside, other=float("-inf"))
    scaled = tl.div_rn(logit, temperature)
    if has_limits:
        pivot, last = tl.load(limits + 2 * row), tl.load(limits + 2 * row + 1)
        scaled = tl.where(_is_kept(_rank(logit), token_id, pivot, last), scaled, float("-inf"))
    scaled = tl.reshape(scaled, (BLOCK // BLOCK_OF_IDS, BLOCK_OF_IDS))
    here = tl.max(scaled, axis=1)
    is_empty = here == float("-inf")
    weights = tl.exp(scaled - tl.where(is_empty, 0.0, here)[:, None])
    number = tl.program_id(1) * (BLOCK // BLOCK_OF_IDS) + tl.arange(0, BLOCK // BLOCK_OF_IDS)
    tl.store(largest + row * num_blocks + number, here, mask=number < num_blocks)
    tl.store(sums + row * num_blocks + number, tl.sum(weights, axis=1), mask=number < num_blocks)


@triton.jit(do_not_specialize=["has_limits"], do_not_specialize_on_alignment=["slot_of_row", "positions"])
def _draw_kernel(
    logits,  # [num_rows, vocab_size] float32, the winner's changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    positions,  # [num_rows] int32 or int64: of each row in its sequence
    real,  # [num_slots, NUM_COLUMNS] float32
    output_from,  # [num_slots] int32
    seeds,  # [num_slots] int64: mixed
    limits,  # [num_rows, 2] int32
    largest,  # [num_rows, num_blocks] float32
    sums,  # [num_rows, num_blocks] float32
    num_blocks,
    vocab_size,
    has_limits,  # bool
    NUM_BLOCKS: tl.constexpr,  # the next power of two
):
    """The two races of a row: between its blocks, and between the tokens of the winning block. One program
    per row.

    Reference: `draw`. Why faster: random numbers for a few hundred runners, not for every token as in vLLM's
    kernel. Bytes moved per row: 8 per block, 4 × BLOCK_OF_IDS, 4 written.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of_row + row).to(tl.int64)
    temperature = tl.load(real + slot * NUM_COLUMNS + TEMPERATURE)
    if temperature == 0.0:
        return
    num_output = tl.load(positions + row).to(tl.int64) + 1 - tl.load(output_from + slot)
    key = _mix((tl.load(seeds + slot) + num_output).to(tl.uint64, bitcast=True))
    k = tl.arange(0, NUM_BLOCKS)
    of_block = tl.load(largest + row * num_blocks + k, mask=k < num_blocks, other=float("-inf"))
    sum_of_block = tl.load(sums + row * num_blocks + k, mask=k < num_blocks, other=0.0)
    most = tl.max(of_block)
    most = tl.where(most == float("-inf"), 0.0, most)
    speed = (sum_of_block * tl.exp(of_block - most)).to(tl.float64)
    speed = tl.where(k < num_blocks, speed / _exponential(key, k.to(tl.int64) + FIRST_BLOCK), -1.0)
    block = tl.argmax(speed, axis=0)
    # For a row of NaN any id will do that the vocabulary has.
    block = tl.minimum(tl.maximum(block, 0), num_blocks - 1)
    token_id = block * BLOCK_OF_IDS + tl.arange(0, BLOCK_OF_IDS)
    here, inside = logits + row * logits_stride, token_id < vocab_size
    logit = tl.load(here + token_id, mask=inside, other=float("-inf"))
    weight = tl.exp(tl.div_rn(logit, temperature) - most)
    if has_limits:
        pivot, last = tl.load(limits + 2 * row), tl.load(limits + 2 * row + 1)
        weight = tl.where(_is_kept(_rank(logit), token_id, pivot, last), weight, 0.0)
    speed = tl.where(inside, weight.to(tl.float64) / _exponential(key, token_id), -1.0)
    winner = block * BLOCK_OF_IDS + tl.argmax(speed, axis=0)
    winner = tl.minimum(tl.maximum(winner, 0), vocab_size - 1)
    tl.store(here + winner, WON)


def find_limits(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32
    tables: SlotTables,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    block: int = SEARCH_BLOCK,
) -> torch.Tensor:  # [num_rows, 2] int32: pivot and last of _is_kept
    limits = torch.empty(len(logits), 2, dtype=torch.int32, device=logits.device)
    rows = (logits, logits.stride(0), slot_of_row, tables.real, tables.top_k, limits, logits.shape[1])
    _limit_kernel[(len(logits),)](*rows, BLOCK=block, num_warps=SEARCH_WARPS)
    return limits


def choose(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, one of each row that draws is changed in place
    tables: SlotTables,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    positions: torch.Tensor,  # [num_rows] int32 or int64
    has_limits: bool,  # whether a row has top_k or top_p
    block: int = LOGITS_BLOCK,  # a multiple of reference.BLOCK
    search_block: int = SEARCH_BLOCK,
) -> None:
    check(logits, tables)
    num_rows, vocab_size = logits.shape
    num_blocks = triton.cdiv(vocab_size, reference.BLOCK)
    rows = (logits, logits.stride(0), slot_of_row)
    limits = find_limits(logits, tables, slot_of_row, search_block) if has_limits else None
    if limits is None:
        limits = torch.empty(1, 2, dtype=torch.int32, device=logits.device)  # not read
    largest = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=logits.device)
    found = (limits, largest, torch.empty_like(largest), num_blocks, vocab_size, int(has_limits))
    grid = (num_rows, triton.cdiv(vocab_size, block))
    _weigh_kernel[grid](*rows, tables.real, *found, BLOCK=block, num_warps=LOGITS_WARPS)
    state = (positions, tables.real, tables.output_from, tables.seeds)
    _draw_kernel[(num_rows,)](
        *rows, *state, *found, NUM_BLOCKS=triton.next_power_of_2(num_blocks), num_warps=4
    )
