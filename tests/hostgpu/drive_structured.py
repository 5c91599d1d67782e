"""Drives grammars beside our processor on vLLM's V2 runner, CUDA build, and prints what was seen, as JSON on
the last line.

FAKE_GPU/run python tests/hostgpu/drive_structured.py WORK_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from server.contract.params import GenerationParams
from server.text.grammars import source_of
from tests.hostgpu.engine import Engine, make_model

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "yes"]}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMS = {
    "json": source_of("json", json.dumps(SCHEMA), compact=True),
    "regex": source_of("regex", "([a-d]{2} ){3}end"),
    "choice": source_of("choice", json.dumps(["Paris", "Rome", "a small town"])),
}
OURS: dict[str, dict[str, Any]] = {
    "alone": {"temperature": 0.0},
    "repetition": {"temperature": 0.0, "repetition_penalty": 1.3},
    "min_p": {"temperature": 0.8, "min_p": 0.2},
    "bias": {"temperature": 0.0, "logit_bias": {11: 1.5}},
    "all": {
        "temperature": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "logit_bias": {8: -3.0},
        "top_p": 0.9,
    },
}
KERNELS = {"_bias_kernel", "_penalise_kernel", "_min_p_kernel", "_weigh_kernel", "_draw_kernel"}
PENALTY = 0  # column of the slots' table


def main(work: Path) -> dict[str, Any]:
    engine = Engine(make_model(work), max_num_batched_tokens=48)  # a prompt of 100 tokens comes in pieces
    watch = Watch(engine)
    num = 0
    for name, fields in OURS.items():
        for form, source in {**FORMS, "none": None}.items():
            prompt = [300 + k for k in range(100 if num % 3 == 0 else 5)]
            params = GenerationParams(grammar=source, **fields)
            engine.add(f"{form} {name}", prompt, params, max_tokens=60 if source else 12)
            watch.sources[f"{form} {name}"] = source
            watch.penalties[f"{form} {name}"] = fields.get("repetition_penalty", 1.0)
            num += 1
    num_steps = engine.run()
    return {
        "is_v2": engine.config.use_v2_model_runner,
        "num_steps": num_steps,
        "texts": {name: engine.text(name) for name in engine.texts},
        "finished": {name: str(reason) for name, reason in engine.finished.items()},
        "mixed": watch.num_mixed,
        "checked": watch.num_checked,
        "wrong": watch.wrong[:9],
        "orders": sorted(watch.orders),
    }


class Watch:
    """Looks at each step: which row is masked with what, and in which order all is launched.

    sources: the grammar of each request. penalties: what our processor has to know of each. wrong: what was
    not as it has to be. orders: of each step that has a mask, which of the three came after which.
    """

    def __init__(self, engine: Engine) -> None:
        from vllm.v1.worker.gpu import structured_outputs

        from sampling import draw_kernels, kernels

        self._engine = engine
        self.sources: dict[str, str | None] = {}
        self.penalties: dict[str, float] = {}
        self.num_mixed = self.num_checked = 0
        self.wrong: list[str] = []
        self.orders: set[str] = set()
        self._order: list[str] = []
        self._masked: int | None = None
        structured_outputs._apply_grammar_bitmask_kernel.add_pre_run_hook(self._mask)
        for name in KERNELS:
            kernel = getattr(kernels if hasattr(kernels, name) else draw_kernels, name)
            kernel.add_pre_run_hook(self._ours)
        sampler, sample = engine.runner.sampler, engine.runner.sample
        apply = sampler.apply_sampling_params

        def watched_apply(logits: Any, *args: Any, **kwargs: Any) -> Any:
            self._note("sampler")
            if self._masked not in (None, logits.data_ptr()):
                self.wrong.append("the sampler has other logits than those that were masked")
            return apply(logits, *args, **kwargs)

        def watched_sample(hidden_states: Any, batch: Any, grammar_output: Any) -> Any:
            self._order, self._masked = [], None
            found = sample(hidden_states, batch, grammar_output)
            if "mask" in self._order:
                self.orders.add(" ".join(self._order))
                self.num_mixed += len(self._engine.sampled.masks) < batch.num_reqs
            return found

        sampler.apply_sampling_params, engine.runner.sample = watched_apply, watched_sample

    def _note(self, what: str) -> None:
        if what not in self._order:
            self._order.append(what)

    def _mask(self, logits: Any, stride: Any, rows: Any, starts: Any, masks: Any, *_: Any, **__: Any) -> None:
        """The kernel's own arguments, as they are on the device."""
        self._note("mask")
        self._masked = logits.data_ptr()
        batch = self._engine.sampled.batch
        if logits.shape[0] != batch.num_reqs:
            self.wrong.append(f"{logits.shape[0]} rows of logits for {batch.num_reqs} requests")
        for row, mask in zip(rows.cpu().tolist(), masks.cpu().numpy(), strict=True):
            name = batch.req_ids[row]
            self.num_checked += 1
            if (source := self.sources[name]) is None:
                self.wrong.append(f"{name} has no grammar, and its row is masked")
            elif not np.array_equal(mask.view(np.uint8), self._expected(source, name)[: mask.nbytes]):
                self.wrong.append(f"{name}: another mask than its own after {self._said(name)}")

    def _said(self, name: str) -> list[int]:
        return self._engine.sampled.chosen.get(name, [])

    def _expected(self, source: str, name: str) -> Any:
        """By a grammar of our own making, which has the request's text so far."""
        matcher = self._engine.tokenizer.grammars.begun(source, self._said(name))
        return np.frombuffer(matcher.compute_bitmask(), np.uint8)

    def _ours(self, logits: Any, stride: Any, slots: Any, *_: Any, **__: Any) -> None:
        """Each row's slot is that of the row's request."""
        self._note("ours")
        batch, tables = self._engine.sampled.batch, self._engine.runner.sampler.logits_processors[-1]._slots
        for name, slot in zip(batch.req_ids, slots.cpu().tolist(), strict=True):
            if tables.tables.real[slot, PENALTY].item() != np.float32(self.penalties[name]):
                self.wrong.append(f"{name}: its row has another request's penalty")


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(json.dumps(found))
