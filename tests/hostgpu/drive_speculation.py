"""Drives drafts beside our processor on vLLM's V2 runner, CUDA build, and prints what was seen, as JSON on
the last line.

FAKE_GPU/run python tests/hostgpu/drive_speculation.py WORK_DIR

What is drafted and what is accepted is chosen on the host. So the rows of a step, the slots and the tokens of
the texts are as they would be; what the device computes of them is not there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"  # as the server has it
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from server.contract.params import GenerationParams
from server.text.grammars import source_of
from tests.hostgpu.engine import Engine, make_model

NUM_DRAFTS, NUM_TOKENS = 3, 20
SPECULATION = {
    "method": "ngram",
    "num_speculative_tokens": NUM_DRAFTS,
    "prompt_lookup_min": 1,
    "prompt_lookup_max": 3,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0.0},
    "repetition": {"temperature": 0.0, "repetition_penalty": 1.3},
    "drawn": {"temperature": 0.8, "min_p": 0.1, "top_p": 0.9},
    "bans": {"temperature": 0.0, "allowed_token_ids": tuple(range(50)), "bad_words": ((5, 6), (7,))},
    "named": {"temperature": 0.0, "logprob_token_ids": (5, 6, 7)},
    "grammar": {
        "temperature": 0.0,
        "grammar": source_of("regex", "([a-d]{2} ){3}end"),
        "frequency_penalty": 0.5,
    },
}
# Where each of our kernels has the tensors with an element a row.
ROWS = {
    "_bias_kernel": (2,),
    "_penalise_kernel": (2, 3, 4),
    "_min_p_kernel": (2,),
    "_limit_kernel": (2,),
    "_weigh_kernel": (2,),
    "_draw_kernel": (2, 3),
    "_allow_kernel": (2,),
    "_bad_words_kernel": (2, 3, 4),
}


def main(work: Path) -> dict[str, Any]:
    engine = Engine(make_model(work), max_num_batched_tokens=64, speculative_config=SPECULATION)
    random = np.random.default_rng(1)
    engine.sampled.num_accepted = lambda name, num: 0 if "grammar" in name else int(random.integers(num + 1))
    use_plausible_drafts(engine)
    seen = Seen(engine)
    for number, (kind, fields) in enumerate([*KINDS.items()] * 3):
        prompt = [300 + k % 4 for k in range(100 if number % 4 == 1 else 8)]
        num_logprobs = 3 if kind == "named" else 1 if kind == "drawn" else None
        engine.add(
            f"{number} {kind}", prompt, GenerationParams(**fields), NUM_TOKENS, num_logprobs=num_logprobs
        )
    num_steps = engine.run()
    grammars = [engine.text(name) for name in engine.texts if "grammar" in name]
    return {
        "is_v2": engine.config.use_v2_model_runner,
        "verification": type(engine.runner.rejection_sampler).__module__,
        "num_steps": num_steps,
        "num_tokens": sum(map(len, engine.texts.values())),
        "lengths": sorted({len(ids) for name, ids in engine.texts.items() if "grammar" not in name}),
        "grammars": grammars,
        "num_finished": len(engine.finished),
        "num_verified": seen.num_verified,
        "num_without": seen.num_without,
        "widths": sorted(seen.widths),
        "launched": sorted(seen.launched),
        "wrong": sorted(seen.wrong),
        "compiled": seen.compiled(),
    }


def use_plausible_drafts(engine: Engine) -> None:
    """Those that the scheduler is told for a grammar: no kernel has made any."""
    handler = engine.runner.draft_tokens_handler
    told = handler.get_draft_tokens

    def get_draft_tokens() -> Any:
        drafts = told()
        if drafts is not None:
            drafts.draft_token_ids = [[5] * len(one) for one in drafts.draft_token_ids]
        return drafts

    handler.get_draft_tokens = get_draft_tokens


class Seen:
    """num_verified, num_without: steps with drafts, and those without. widths: of the log-probabilities that
    verified steps tell. launched: our kernels, in steps with drafts. wrong: what was not as it has to be."""

    def __init__(self, engine: Engine) -> None:
        from sampling import ban_kernels, draw_kernels, kernels

        self.num_verified = self.num_without = 0
        self.widths: set[int] = set()
        self.launched: set[str] = set()
        self.wrong: set[str] = set()
        self._engine = engine
        self._kernels = {
            name: getattr(module, name)
            for name in ROWS
            for module in (kernels, draw_kernels, ban_kernels)
            if name in vars(module) and getattr(module, name).__module__ == module.__name__
        }
        for name, kernel in self._kernels.items():
            kernel.add_pre_run_hook(lambda *args, name=name, **_: self._look(name, *args))
        sample = engine.runner.sample

        def watched(hidden_states: Any, batch: Any, grammar_output: Any) -> Any:
            found = sample(hidden_states, batch, grammar_output)
            self._count(batch, found[0])
            return found

        engine.runner.sample = watched

    def _count(self, batch: Any, output: Any) -> None:
        if batch.num_draft_tokens:
            self.num_verified += 1
            if output.logprobs_tensors is not None:
                self.widths.add(output.logprobs_tensors.logprobs.shape[1])
                if len(output.logprobs_tensors.logprobs) != batch.cu_num_logits_np[-1]:
                    self.wrong.add("log-probabilities are not of each row")
        else:
            self.num_without += 1
        if tuple(output.num_nans.shape) != (batch.num_reqs,):
            self.wrong.add("NaN are not counted by request")

    def _look(self, name: str, logits: Any, *args: Any) -> None:
        batch = self._engine.sampled.batch
        if batch.num_draft_tokens:
            self.launched.add(name)
        num_rows = int(batch.cu_num_logits_np[-1])
        sizes = {len(logits), *(len(args[place - 1]) for place in ROWS[name])}
        if sizes != {num_rows}:
            self.wrong.add(f"{name}: {sizes} rows, not {num_rows}")

    def compiled(self) -> dict[str, int]:
        """How many forms of each kernel there are."""
        return {name: len(kernel.device_caches[0][0]) for name, kernel in self._kernels.items()}


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(json.dumps(found))
