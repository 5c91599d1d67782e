"""Banned tokens in Triton, for vLLM's V2 model runner: the first two functions of reference.py.

They are rarely used, so there is no table: each request with bans has its own lists on the device, and its
own launches.
"""
# Triton's constants are in capitals, and its language has no types; the launchers have.
# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from sampling.kernels import LOGITS_BLOCK, LOGITS_WARPS, SlotTables, check
from sampling.params import RowParams
from sampling.reference import UNWANTED
from sampling.staging import staged


@dataclass(frozen=True, slots=True)
class SlotBans:
    """The bans of one slot, on the device; None: none of this kind.

    allowed: [ceil(vocab_size / 32)] int32, token t is bit t % 32 of word t // 32. words: [num_ids] int32, the
    bad words one after another. starts: [num_words + 1] int32, where each of them begins.
    """

    allowed: torch.Tensor | None
    words: torch.Tensor | None
    starts: torch.Tensor | None


def slot_bans(params: RowParams, vocab_size: int, device: torch.device) -> SlotBans:
    def sent(values: Sequence[int] | npt.NDArray[np.int32]) -> torch.Tensor:
        array = np.array(values, np.int32)
        return staged(array, pinned=device.type != "cpu").to(device, non_blocking=True)

    allowed = words = starts = None
    if params.allowed_token_ids:
        bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        bits[list(params.allowed_token_ids)] = 1
        allowed = sent(np.packbits(bits, bitorder="little").view("<i4"))
    if params.bad_words:
        words = sent([token_id for word in params.bad_words for token_id in word])
        starts = sent([0, *np.cumsum([len(word) for word in params.bad_words])])
    return SlotBans(allowed, words, starts)


@triton.jit(do_not_specialize=["slot"], do_not_specialize_on_alignment=["slot_of_row"])
def _allow_kernel(
    logits,  # [num_rows, vocab_size] float32, changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    slot,
    allowed,  # [num_words] int32
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Ban all but the allowed tokens, in one block of a row. Reference: `allowed`. Bytes moved per row:
    vocab_size / 8 read, 4 written per banned logit."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(slot_of_row + row) != slot:
        return
    token_id = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token_id < vocab_size
    bits = tl.load(allowed + token_id // 32, mask=inside, other=-1)
    is_banned = ((bits >> (token_id % 32)) & 1) == 0
    tl.store(logits + row * logits_stride + token_id, float("-inf"), mask=inside & is_banned)


@triton.jit(
    do_not_specialize=["slot"], do_not_specialize_on_alignment=["slot_of_row", "local_pos", "input_ids"]
)
def _bad_words_kernel(
    logits,  # [num_rows, vocab_size] float32, changed in place
    logits_stride,
    slot_of_row,  # [num_rows] int32
    local_pos,  # [num_rows] int32: the row's place among its request's rows
    input_ids,  # [num_rows] int32 or int64: from a request's second row on, its draft tokens
    slot,
    words,  # [num_ids] int32
    starts,  # [num_words + 1] int32
    all_token_ids,  # [num_slots, max_model_len] int32
    history_stride,
    total_len,  # [num_slots] int32
    output_from,  # [num_slots] int32
    UNWANTED: tl.constexpr,
):
    """Keep one bad word from being completed in one row. Reference: `bad_words`; draft tokens before the row
    are output. Like vLLM's own kernel, except that output from before a resumption counts as output."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(slot_of_row + row) != slot:
        return
    start, end = tl.load(starts + tl.program_id(1)), tl.load(starts + tl.program_id(1) + 1)
    num_before = end - start - 1
    known = tl.load(total_len + slot)
    num_drafts = tl.load(local_pos + row)
    first = known + num_drafts - num_before  # where the word would have begun
    if first < tl.load(output_from + slot):
        return
    is_met = True
    for k in range(num_before):
        at = first + k
        from_history = tl.load(all_token_ids + slot * history_stride + at, mask=at < known, other=-1)
        draft = tl.load(input_ids + row - num_drafts + at - known + 1, mask=at >= known, other=-1)
        token_id = tl.where(at < known, from_history, draft.to(tl.int32))
        is_met = is_met & (token_id == tl.load(words + start + k))
    if is_met:
        here = logits + row * logits_stride + tl.load(words + end - 1)
        tl.store(here, tl.minimum(tl.load(here), UNWANTED))


def ban(
    logits: torch.Tensor,  # [num_rows, vocab_size] float32, changed in place
    tables: SlotTables,
    slot: int,  # whose bans these are
    bans: SlotBans,
    slot_of_row: torch.Tensor,  # [num_rows] int32
    local_pos: torch.Tensor,  # [num_rows] int32
    input_ids: torch.Tensor,  # [num_rows] int32 or int64
    all_token_ids: torch.Tensor,  # [num_slots, max_model_len] int32
    total_len: torch.Tensor,  # [num_slots] int32: tokens in each row of all_token_ids
    block: int = LOGITS_BLOCK,
) -> None:
    check(logits, tables)
    num_rows, vocab_size = logits.shape
    if bans.allowed is not None:
        grid = num_rows, triton.cdiv(vocab_size, block)
        rows = (logits, logits.stride(0), slot_of_row)
        _allow_kernel[grid](*rows, slot, bans.allowed, vocab_size, BLOCK=block, num_warps=LOGITS_WARPS)
    if bans.words is not None and bans.starts is not None:
        words = (slot_of_row, local_pos, input_ids, slot, bans.words, bans.starts)
        history = (all_token_ids, all_token_ids.stride(0), total_len, tables.output_from)
        _bad_words_kernel[(num_rows, len(bans.starts) - 1)](
            logits, logits.stride(0), *words, *history, UNWANTED=UNWANTED, num_warps=1
        )
