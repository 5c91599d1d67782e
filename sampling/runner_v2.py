"""Our sampling as a logits processor of vLLM's V2 model runner, the default on CUDA.

vLLM's front-end process imports this module too, to look at the class. Torch and Triton are only imported
when the class is instantiated, in the runner's processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor, LogitsProcRequestState

from sampling.params import RowParams

if TYPE_CHECKING:
    import torch


class SamplingProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM is not type-checked
    """Parameters come in SamplingParams.extra_args under RowParams' names; vLLM's own stay neutral, its
    temperature 0.

    `num_output_before` in extra_args says how many trailing prompt ids were generated before the request was
    resumed. vLLM's min_tokens, which bans end tokens, and its grammar mask run before this. A slot's next
    request takes it over without notice: add_request sets all of its state. A request that vLLM has preempted
    comes back as a new one whose history contains its output.
    """

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState) -> None:
        from sampling import ban_kernels, draw_kernels, kernels, slots  # with torch and Triton: see above

        self._kernels, self._choose, self._ban = kernels, draw_kernels.choose, ban_kernels.ban
        self._req_states = req_states
        self._slots = slots.Slots(req_states.max_num_reqs, req_states.vocab_size, req_states.device)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        extra = sampling_params.extra_args or {}
        params = RowParams.from_extra_args(extra)
        if params.logprob_token_ids:  # here vLLM's own implementation is right, and runs after this
            sampling_params.logprob_token_ids = [*params.logprob_token_ids]
        prompt_len = int(self._req_states.prompt_len.np[req_idx])
        return self._slots.put(req_idx, params, prompt_len - extra.get("num_output_before", 0))

    def apply_staged_writes(self) -> None:
        self._slots.flush()

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """logits: [num_rows, vocab_size] float32, changed in place and returned. Kernels that no row of the
        batch needs are not launched."""
        slots, tables = self._slots, self._slots.tables
        in_batch = ctx.idx_mapping_np
        has_history = bool(slots.has_history[in_batch].any())
        has_min_p = bool(slots.has_min_p[in_batch].any())
        most_biases = int(slots.num_biases[in_batch].max(initial=0))
        rows = ctx.expanded_idx_mapping
        history, total_len = self._req_states.all_token_ids.gpu, self._req_states.total_len.gpu
        if slots.bans:
            for slot in slots.bans.keys() & in_batch.tolist():
                own = (slot, slots.bans[slot], rows, ctx.expanded_local_pos, ctx.input_ids)
                self._ban(logits, tables, *own, history, total_len)
        if has_history:
            self._kernels.take_in(tables, ctx.idx_mapping, history, total_len)
        if most_biases:
            self._kernels.add_bias(logits, tables, rows, most_biases)
        if slots.long_biases:
            for slot in slots.long_biases.keys() & in_batch.tolist():
                self._kernels.add_long_bias(logits, rows, slot, *slots.long_biases[slot])
        if has_history or has_min_p:
            maxima = self._kernels.penalise(logits, tables, rows, ctx.expanded_local_pos, ctx.input_ids)
            if has_min_p:
                self._kernels.mask_min_p(logits, tables, rows, maxima)
        if slots.is_drawn[in_batch].any():
            self._choose(logits, tables, rows, ctx.pos, bool(slots.is_truncated[in_batch].any()))
        return logits
