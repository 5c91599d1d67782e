"""Drives LoRA adapters beside our processor on vLLM's V2 runner, CUDA build, and prints what was seen, as
JSON on the last line.

FAKE_GPU/run python tests/hostgpu/drive_lora.py WORK_DIR

What vLLM computes on the device to sort the rows of a step by adapter is computed on the host here; it and
the adapters' weights are then on the device as they would be, and are looked at at each kernel's launch.
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors.torch import load_file, save_file

from server.contract.params import GenerationParams
from server.engine.adapters import engine_arguments
from server.weights.adapters import WEIGHTS, Adapter, base_of, check_adapter
from tests.adapters import PREFIX, write_adapter
from tests.hostgpu.engine import Engine, make_model
from tests.hostgpu.onhost import OnHost, as_host

NUM_SLOTS = 2
SHAPES = {"q_proj": (128, 128), "v_proj": (64, 128), "o_proj": (128, 128), "down_proj": (128, 256)}
PLACES = {"q_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn", "down_proj": "mlp"}
# Where vLLM has it: the module that it is part of, and which part.
PARTS = {
    "q_proj": ("qkv_proj", 0),
    "v_proj": ("qkv_proj", 2),
    "o_proj": ("o_proj", 0),
    "down_proj": ("down_proj", 0),
}
OURS = (
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.8, "min_p": 0.1, "logit_bias": {5: 1.0}},
)
RANKS = {"one": 4, "two": 12, "three": 8}
ALPHA = 16


def make_adapters(work: Path, model: Path) -> dict[str, Adapter]:
    """Of ranks of their own, with numbers in them; checked as the server does."""
    base = base_of(model, ("tiny",), (model / "model.safetensors",))
    found = {}
    for seed, (name, rank) in enumerate(RANKS.items()):
        modules = {
            f"model.layers.{layer}.{PLACES[module]}.{module}": shape
            for layer in range(2)
            for module, shape in SHAPES.items()
        }
        path = write_adapter(work / name, modules, rank, lora_alpha=ALPHA, target_modules=[*SHAPES])
        torch.manual_seed(seed)
        tensors = {
            f"{PREFIX}{module}.lora_{part}.weight": torch.randn(size, dtype=torch.bfloat16)
            for module, (num_out, num_in) in modules.items()
            for part, size in (("A", (rank, num_in)), ("B", (num_out, rank)))
        }
        save_file(tensors, path / WEIGHTS)
        found[name] = check_adapter(name, path, base, {})
    return found


def main(work: Path) -> dict[str, Any]:
    model = make_model(work)
    adapters = make_adapters(work, model)
    engine = Engine(
        model,
        max_num_batched_tokens=48,  # a prompt of 100 tokens comes in pieces
        **engine_arguments([*adapters.values()], {"max_loras": NUM_SLOTS, "max_cpu_loras": NUM_SLOTS}),
    )
    core = engine.core
    core.output_queue = queue.SimpleQueue()  # as a process of its own has it, for what cannot be loaded
    watch = Watch(engine, adapters)

    def ask(names: list[str | None], max_tokens: int = 6) -> None:
        for name in names:
            for number, fields in enumerate(OURS):
                prompt = [300 + k for k in range(100 if number else 5)]
                one = f"{len(engine.texts)} {name}"
                watch.adapter_of[one] = adapters[name].number if name else None
                chosen = adapters[name] if name else None
                engine.add(one, prompt, GenerationParams(**fields), max_tokens, adapter=chosen)

    seen: dict[str, Any] = {"is_v2": engine.config.use_v2_model_runner}
    ask(["one", None, "two"])
    engine.run()
    seen["two at once"] = watch.taken()
    ask(["three", None, "one", "two"])  # one more than there is room for
    engine.run()
    seen["three"] = watch.taken()
    ask([None])
    engine.run()
    seen["none"] = watch.taken()
    seen["kept"] = sorted(watch.name(number) for number in core.list_loras())
    seen["removed"] = [core.remove_lora(number) for number in core.list_loras()], len(core.list_loras())
    (work / "one" / WEIGHTS).rename(work / "gone")
    ask(["one"])
    seen["cannot be loaded"] = [core.output_queue.get()[1].outputs[0].stop_reason for _ in OURS]
    ask(["two", None])
    engine.run()
    seen["afterwards"] = watch.taken()
    lengths = {name: len(ids) for name, ids in engine.texts.items() if name.split()[1] != "gone"}
    seen["lengths"] = sorted({length for name, length in lengths.items() if name in engine.finished})
    seen["num_finished"] = len(engine.finished)
    return seen


class Watch:
    """Looks at what each product with adapters is asked for.

    adapter_of: of each request, the adapter's number. loads: which adapters were read. products: how many.
    launches: how many of them launched a kernel. sizes: the shapes of their inputs and weights. together:
    how many adapters steps have had. wrong: what was not as it has to be.
    """

    def __init__(self, engine: Engine, adapters: dict[str, Adapter]) -> None:
        from vllm.lora.ops.triton_ops import lora_expand_op, lora_shrink_op
        from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
        from vllm.lora.punica_wrapper import punica_gpu

        self._engine, self._adapters = engine, adapters
        self._tensors = {one.number: load_file(one.directory / WEIGHTS) for one in adapters.values()}
        self._manager = engine.runner.lora_manager._adapter_manager
        self.adapter_of: dict[str, int | None] = {}
        self._begin()
        sort_on_the_host(LoRAKernelMeta)
        punica_gpu.lora_shrink = self._watched("shrink", punica_gpu.lora_shrink)
        punica_gpu.lora_expand = self._watched("expand", punica_gpu.lora_expand)
        for kernel in (lora_shrink_op._lora_shrink_kernel, lora_expand_op._lora_expand_kernel):
            kernel.add_pre_run_hook(self._launched)
        activate = self._manager.activate_adapter

        def watched_activate(number: int) -> bool:
            with OnHost():
                return bool(activate(number))

        self._manager.activate_adapter = watched_activate
        load = engine.runner.lora_manager._load_adapter

        def watched_load(request: Any) -> Any:
            self.loads.append(self.name(request.lora_int_id))
            return load(request)

        engine.runner.lora_manager._load_adapter = watched_load
        prepare = engine.runner.prepare_inputs

        def watched_prepare(*args: Any, **kwargs: Any) -> Any:
            self._batch = prepare(*args, **kwargs)
            return self._batch

        engine.runner.prepare_inputs = watched_prepare

    def name(self, number: int) -> str:
        return next(one.id for one in self._adapters.values() if one.number == number)

    def taken(self) -> dict[str, Any]:
        """What was seen since it was last taken."""
        seen = {
            "loads": self.loads,
            "products": self.products,
            "launches": self.launches,
            "sizes": sorted(self.sizes),
            "together": sorted(self.together),
            "wrong": sorted(self.wrong),
        }
        self._begin()
        return seen

    def _begin(self) -> None:
        self.loads: list[str] = []
        self.products = self.launches = 0
        self.sizes: set[str] = set()
        self.together: set[int] = set()
        self.wrong: set[str] = set()

    def _launched(self, *_: Any, **__: Any) -> None:
        self.launches += 1

    def _watched(self, kind: str, product: Any) -> Any:
        def watched(inputs: Any, weights: Any, output: Any, *meta: Any, **more: Any) -> Any:
            self.products += 1
            sizes = [list(one.shape) for one in weights]
            self.sizes.add(f"{kind}: {len(inputs.shape)} dimensions, {output.dtype}, weights {sizes}")
            if any(not tensor.is_cuda for tensor in (inputs, output, *weights, *meta[:5])):
                self.wrong.add("an argument is not on the device")
            self._look(*meta[:6])
            self._look_at_weights()
            return product(inputs, weights, output, *meta, **more)

        return watched

    def _look(self, of_rows: Any, rows: Any, counts: Any, starts: Any, slots: Any, is_without: Any) -> None:
        """of_rows: the slot of each row, by row. rows: their numbers, in the order of slots; of each of those
        how many there are, and where they begin."""
        expected, batch = [], self._batch
        has_row_of_each_token = len(of_rows) == batch.num_scheduled_tokens.sum()  # else one of each request
        for name, num in zip(batch.req_ids, batch.num_scheduled_tokens, strict=True):
            number = self.adapter_of[name]
            slot = -1 if number is None else self._manager.lora_index_to_id.index(number)
            expected += [slot] * (int(num) if has_row_of_each_token else 1)
        used = sorted(set(expected))
        self.together.add(len({*used} - {-1}))
        if bool(is_without[0]) != (used == [-1]):
            self.wrong.add("whether any row has an adapter is told wrong")
        if used == [-1]:
            return
        if of_rows.cpu().tolist() != expected:
            self.wrong.add("a row has another slot than its request's adapter")
        order = sorted(range(len(expected)), key=lambda row: (expected[row], row))
        told = [rows.cpu().tolist(), slots.cpu().tolist(), counts.cpu().tolist(), starts.cpu().tolist()]
        pad = len(told[1]) - len(used)
        each = [expected.count(slot) for slot in used]
        begins = [sum(each[:k]) for k in range(len(each) + 1)]
        if told != [order, used + [-1] * pad, each + [0] * pad, begins + [0] * pad]:
            self.wrong.add(f"rows are sorted wrongly: {told[1:]} for {used}, {each}, {begins}")

    def _look_at_weights(self) -> None:
        """Each slot that a row of this step uses has its adapter's, the scale in B."""
        for slot, number in enumerate(self._manager.lora_index_to_id):
            if number not in {self.adapter_of[name] for name in self._batch.req_ids} - {None}:
                continue
            tensors = self._tensors[number]
            for module, (packed, part) in PARTS.items():
                whole = f"model.layers.1.{PLACES[module]}"
                layer = self._manager.modules[f"{whole}.{packed}"]
                down, up = (tensors[f"{PREFIX}{whole}.{module}.lora_{k}.weight"] for k in "AB")
                rank = len(down)
                there = (
                    as_host(layer.lora_a_stacked[part][slot, 0, :rank]),
                    as_host(layer.lora_b_stacked[part][slot, 0, :, :rank]),
                )
                if not (torch.equal(there[0], down) and torch.equal(there[1], up * (ALPHA / rank))):
                    self.wrong.add(f"slot {slot} has not the {module} of {self.name(number)}")


def sort_on_the_host(meta: Any) -> None:
    """meta: vLLM's class that sorts rows, whose operations would compute nothing on the device."""
    prepare = meta.prepare_tensors

    def prepared(self: Any, of_rows: Any) -> None:
        with OnHost():
            prepare(self, as_host(of_rows))

    meta.prepare_tensors = prepared


if __name__ == "__main__":
    found = main(Path(sys.argv[1]))
    print(json.dumps(found))
