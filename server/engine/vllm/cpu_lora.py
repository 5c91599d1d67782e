"""LoRA products on the CPU, in place of vLLM's own.

vLLM 0.32.0 uses the adapter of the last slot for rows without an adapter: beside a request for an adapter, a
request for the model itself would get the adapter's text (vllm-project/vllm, pull requests 48421 and 49656).
It also copies an adapter's weights once for each token. Here all rows with the same adapter are one product,
and rows without an adapter are left alone.

Rows come in runs. lengths, slots: for each run, its number of rows and the slot of its adapter;
-1: no adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any


def sgmv_shrink(
    inputs: Any,  # [num_rows, in]
    weights: Any,  # [num_slots, 1, rank, in]
    output: Any,  # [num_rows, >= rank] float32, changed in place
    starts: Any,
    lengths: Any,  # [num_runs]
    slots: Any,  # [num_runs]
    batches: int,
    max_length: int,
    num_rows: int,
    scaling: float,
) -> None:
    """output = scaling · A · inputs."""
    for rows, slot in _rows(lengths, slots):
        part = _product(inputs[rows], weights, slot, output.dtype)
        output[rows, : part.shape[1]] = part if scaling == 1 else scaling * part


def sgmv_expand(
    inputs: Any,  # [num_rows, rank] float32
    weights: Any,  # [num_slots, 1, out, rank]
    output: Any,  # [num_rows, out], changed in place
    starts: Any,
    lengths: Any,
    slots: Any,
    batches: int,
    max_length: int,
    num_rows: int,
    add_inputs: bool = False,
) -> None:
    """output += B · inputs, over the columns that both have: they may be padded differently."""
    width = min(weights.shape[-2], output.shape[1])
    _expand(inputs, weights, output[:, :width], _rows(lengths, slots), add_inputs)


def sgmv_expand_slice(
    inputs: Any,
    weights: Any,
    output: Any,
    starts: Any,
    lengths: Any,
    slots: Any,
    batches: int,
    max_length: int,
    num_rows: int,
    offset: int,
    size: int,
    add_inputs: bool = False,
) -> None:
    """The same, for some of the columns."""
    _expand(inputs, weights, output[:, offset : offset + size], _rows(lengths, slots), add_inputs)


def bgmv_shrink(inputs: Any, weights: Any, output: Any, slots: Any, scaling: float = 1.0) -> None:
    """As sgmv_shrink, with a slot for each row."""
    found, lengths = slots.unique_consecutive(return_counts=True)
    sgmv_shrink(inputs, weights, output, None, lengths, found, 0, 0, 0, scaling)


def bgmv_expand(inputs: Any, weights: Any, output: Any, slots: Any, add_inputs: bool = True) -> None:
    """As sgmv_expand, with a slot for each row."""
    found, lengths = slots.unique_consecutive(return_counts=True)
    sgmv_expand(inputs, weights, output, None, lengths, found, 0, 0, 0, add_inputs)


def bgmv_expand_slice(
    inputs: Any, weights: Any, output: Any, slots: Any, offset: int, size: int, add_inputs: bool = True
) -> None:
    """As sgmv_expand_slice, with a slot for each row."""
    found, lengths = slots.unique_consecutive(return_counts=True)
    sgmv_expand_slice(inputs, weights, output, None, lengths, found, 0, 0, 0, offset, size, add_inputs)


OWN = (sgmv_shrink, sgmv_expand, sgmv_expand_slice, bgmv_shrink, bgmv_expand, bgmv_expand_slice)


def take_own_products(punica_cpu: Any) -> None:
    """Patch vLLM's module to use these products."""
    for function in OWN:
        assert hasattr(punica_cpu, function.__name__), "of vLLM 0.32.0"
        setattr(punica_cpu, function.__name__, function)


def _rows(lengths: Any, slots: Any) -> Iterator[tuple[Any, int]]:
    """(indexes of rows, slot) of each adapter, over all its runs."""
    for slot, rows in _grouped(tuple(lengths.tolist()), tuple(slots.tolist())):
        yield rows if isinstance(rows, slice) else slots.new_tensor(rows), slot


@lru_cache(maxsize=16)  # a step asks for the same grouping in every module of the model
def _grouped(lengths: tuple[int, ...], slots: tuple[int, ...]) -> list[tuple[int, slice | list[int]]]:
    """The rows of each slot; a slot with one run gives a slice, which needs no copy."""
    found: dict[int, list[slice]] = {}
    start = 0
    for length, slot in zip(lengths, slots, strict=True):
        if slot >= 0:
            found.setdefault(slot, []).append(slice(start, start + length))
        start += length
    return [
        (slot, runs[0] if len(runs) == 1 else [row for run in runs for row in range(run.start, run.stop)])
        for slot, runs in found.items()
    ]


def _expand(
    inputs: Any, weights: Any, output: Any, of_slots: Iterator[tuple[Any, int]], add_inputs: bool
) -> None:
    for rows, slot in of_slots:
        part = _product(inputs[rows], weights, slot, output.dtype)[:, : output.shape[1]]
        if add_inputs:
            output[rows] += part
        else:
            output[rows] = part


def _product(rows: Any, weights: Any, slot: int, dtype: Any) -> Any:
    weight = weights[slot]
    return rows.to(dtype) @ (weight[0] if weight.dim() == 3 else weight).to(dtype).T
