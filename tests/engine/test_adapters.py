"""LoRA adapters on the real engine, against PEFT on the same weights.

More of them than the engine keeps: it has two in a step, and two in memory.

Measured over the texts below, largest absolute difference to PEFT's float32 forward pass, in nats: 0.000001,
with rank-stabilized scales and without (2 cores of a Xeon with AMX, vLLM 0.32.0, PEFT 0.21.2,
torch 2.13.0, 2026-11-26).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conform.every import select
from conform.subject.rule import Rule
from server.access.keys import digest
from server.engine.vllm.adapters import load_adapters_first
from tests.conform.subjects import assert_holds, subject_at
from tests.engine.reference import Reference
from tests.engine.test_logprobs_hf import TOLERANCES, differences
from tests.serving import CAPITAL, ON_GPU, SMOL, TINY, Client, Server, serving, tiny_model, wait_for

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

ATTENTION = ("q_proj", "v_proj")
ALL = (*ATTENTION, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "stable": {"r": 12, "lora_alpha": 16, "target_modules": ALL, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 8},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 2},
    },
    "gone": {"r": 2, "lora_alpha": 8, "target_modules": ATTENTION},
}
IDS = [*range(500, 540), *range(500, 540)]  # five blocks of the prefix cache
# vLLM's kernels for adapters on a GPU take no float32. In bfloat16 what else is in a step moves logits across
# near ties: there values are compared, and no texts.
DTYPE, TOLERANCE = ("bfloat16", TOLERANCES[SMOL][0]) if ON_GPU else ("float32", TOLERANCES[TINY][0])
of_texts = pytest.mark.skipif(ON_GPU, reason="texts are not the same in bfloat16")


def make_adapter(path: Path, model: Path, seed: int, **config: Any) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config["target_modules"] = [*config["target_modules"]]
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_" in name:  # B begins as zero, and changes nothing
                tensor.copy_(torch.randn_like(tensor) * 0.2)
    adapted.save_pretrained(str(path))


@pytest.fixture(scope="module")
def folder(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        make_adapter(folder / name, tiny_path, seed, **config)
    return folder


@pytest.fixture(scope="module")
def server(tiny_path: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    adapters = [{"id": name, "path": str(folder / name)} for name in ADAPTERS]
    model = tiny_model(tiny_path, adapters=adapters, max_model_len=2048, dtype=DTYPE)
    model["engine_args"] |= {"max_loras": 2, "max_cpu_loras": 2}
    place = tmp_path_factory.mktemp("server")
    (place / "keys").write_text(f"any {digest('any')} roles=infer,admin\n")
    with serving(place, {"models": [model], "api_keys_file": "keys"}) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url(), "any", TINY) as client:
        yield client


@pytest.fixture(scope="module")
def references(tiny_path: Path, folder: Path) -> dict[str, Reference]:
    found = {name: Reference(tiny_path, folder / name) for name in ADAPTERS if name != "gone"}
    return {TINY: Reference(tiny_path), **found}


@contextlib.contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(server.url(), "any", TINY)) for _ in range(count)]


NAMES = (TINY, "plain", "stable", "patterns")


@pytest.mark.parametrize("rule", select(["adapters"], hard=False), ids=lambda rule: rule.id)
def test_rule_of_adapters_holds(server: Server, rule: Rule) -> None:
    """The contract's rules (conform/), as the twin keeps them too."""
    with subject_at(server.url(), "any") as subject:
        assert_holds(subject, rule)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_has_pefts_values(client: Client, references: dict[str, Reference], name: str) -> None:
    """Each of the same prompt, which the others have left in the prefix cache: what one has computed is
    nothing to another."""
    for _ in range(2):
        logprobs = client.choice(model=name, prompt=IDS, echo=True, logprobs=1, max_tokens=0)["logprobs"]
        measured, expected = logprobs["token_logprobs"][1:], references[name].scores(IDS)
        assert differences(measured, expected).max() < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_generated_tokens_have_pefts_values(
    client: Client, references: dict[str, Reference], name: str
) -> None:
    """Drawn ones too, after a prompt that is in the cache."""
    fields = {"model": name, "prompt": IDS, "temperature": 1.2, "seed": 5, "max_tokens": 20}
    choice = client.choice(**fields, logprobs=0, ignore_eos=True, return_token_ids=True)
    expected = references[name].scores(IDS + choice["token_ids"])[len(IDS) - 1 :]
    assert differences(choice["logprobs"]["token_logprobs"], expected).max() < TOLERANCE


def test_values_are_pefts_in_one_batch(server: Server, references: dict[str, Reference]) -> None:
    """Of requests for each adapter and for the model itself, two of each at the same time."""
    names = [*NAMES] * 2

    def asked(client: Client, number: int) -> float:
        prompt = IDS[number:]
        fields = {"model": names[number], "prompt": prompt, "temperature": 1.1, "seed": number}
        more = {"max_tokens": 20, "logprobs": 0, "ignore_eos": True, "return_token_ids": True}
        choice = client.choice(**fields, **more)
        expected = references[names[number]].scores(prompt + choice["token_ids"])[len(prompt) - 1 :]
        return float(differences(choice["logprobs"]["token_logprobs"], expected).max())

    with clients(server, len(names)) as all_of_them, ThreadPoolExecutor(len(names)) as pool:
        assert max(pool.map(asked, all_of_them, range(len(names)))) < TOLERANCE


def requests() -> list[dict[str, Any]]:
    """What acts on the text in our processors, in vLLM and in the front end."""
    fields: list[dict[str, Any]] = [
        {"temperature": 0, "repetition_penalty": 1.3, "ignore_eos": True},
        {"seed": 1, "temperature": 1.1, "top_p": 0.9, "presence_penalty": 1.0, "ignore_eos": True},
        {"seed": 2, "best_of": 4, "n": 2, "temperature": 1.5, "ignore_eos": True},
        {"seed": 3, "structured_outputs": {"regex": "[a-z ]{30,40}"}},
    ]
    return [one | {"model": name, "max_tokens": 40} for name in NAMES for one in fields]


def texts(client: Client, fields: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in client.complete(**fields)["choices"]]


@of_texts
def test_adapters_and_the_model_run_in_one_batch(server: Server, client: Client) -> None:
    """Each says at the same time as the others, of which the engine has room for two in a step, what it says
    alone; penalties, draws, best_of and grammars act on each."""
    alone = [texts(client, fields) for fields in requests()]
    for k in range(4):
        assert len({str(found) for found in alone[k::4]}) > 1  # each acts on the text
    with clients(server, len(alone)) as all_of_them, ThreadPoolExecutor(len(alone)) as pool:
        together = list(pool.map(texts, all_of_them, requests()))
    assert together == alone


@of_texts
def test_an_adapter_that_cannot_be_loaded_is_told(client: Client, server: Server, folder: Path) -> None:
    """Of one whose files have gone since the start its requests fail, with the reason; the engine lives, and
    says what it said before of the others."""
    before, engines = texts(client, requests()[4]), server.engines()
    (folder / "gone" / "adapter_model.safetensors").rename(folder / "weights")
    answer = client.ask(model="gone")
    assert answer.status_code == 503
    assert "the adapter gone cannot be loaded" in answer.json()["message"]
    assert texts(client, requests()[4]) == before
    assert server.engines() == engines
    (folder / "weights").rename(folder / "gone" / "adapter_model.safetensors")
    assert client.ask(model="gone").status_code == 200


@pytest.mark.long
@of_texts
def test_streams_of_adapters_outlive_their_engine(server: Server, client: Client) -> None:
    """After a kill -9 they go on in the next one, in the same adapter, to the same texts."""
    fields = [
        {"model": name, "prompt": CAPITAL, "seed": seed, "max_tokens": 300, "ignore_eos": True}
        for name in NAMES
        for seed in range(2)
    ]
    engine = max(server.engines(), key=lambda process: process.memory_info().rss)
    counted = f'verbatim_resumed_total{{engine="0",model="{TINY}"}}'
    with clients(server, len(fields)) as all_of_them, ThreadPoolExecutor(len(fields)) as pool:
        alone = list(pool.map(texts, all_of_them, fields))
        before = client.metric(counted)
        running = [pool.submit(texts, *pair) for pair in zip(all_of_them, fields, strict=True)]
        wait_for(lambda: client.metric("verbatim_requests_in_flight") > len(fields) // 2, 30)
        os.kill(engine.pid, signal.SIGKILL)
        assert [one.result() for one in running] == alone
        assert client.metric(counted) > before


@pytest.mark.long
@of_texts
def test_a_larger_rank_takes_another_engine(
    server: Server, client: Client, tiny_path: Path, folder: Path
) -> None:
    """Which goes on with the streams that run, to the same texts; what came is exact, and goes again."""
    make_adapter(folder / "large", tiny_path, 9, r=24, lora_alpha=8, target_modules=ATTENTION)
    path = f"/v1/models/{TINY}/adapters/large"
    fields = [
        {"model": name, "prompt": CAPITAL, "seed": 7, "max_tokens": 240, "ignore_eos": True} for name in NAMES
    ]
    alone = [texts(client, one) for one in fields]
    with clients(server, len(fields)) as all_of_them, ThreadPoolExecutor(len(fields)) as pool:
        running = [pool.submit(texts, *pair) for pair in zip(all_of_them, fields, strict=True)]
        answer = client.put(path, json={"path": str(folder / "large")})
        assert answer.json()["message"].endswith("adapters added: large.")
        assert [one.result() for one in running] == alone
    logprobs = client.choice(model="large", prompt=IDS, echo=True, logprobs=1, max_tokens=0)["logprobs"]
    expected = Reference(tiny_path, folder / "large").scores(IDS)
    assert differences(logprobs["token_logprobs"][1:], expected).max() < TOLERANCE
    assert client.delete(path).status_code == 200
    assert client.ask(model="large").status_code == 404
    assert texts(client, fields[1]) == alone[1]


def test_an_engine_without_room_for_adapters_says_so() -> None:
    """It would answer as the base model; only the request that asked is ended."""
    from types import SimpleNamespace

    ended: list[Any] = []
    added: list[str] = []

    class Core:
        vllm_config = SimpleNamespace(lora_config=None)
        output_queue = SimpleNamespace(put_nowait=ended.append)

        def add_request(self, request: Any, request_wave: int = 0) -> None:
            added.append(request.request_id)

        def wake_up(self, tags: list[str] | None = None) -> bool:
            return True

    load_adapters_first(Core)
    for name, asked in (("a", SimpleNamespace(lora_int_id=1, lora_name="my@123")), ("b", None)):
        request = SimpleNamespace(request_id=name, client_index=0, lora_request=asked)
        Core().add_request(request)
    assert added == ["b"]
    ((_, outputs),) = ended
    assert "no room for the adapter my at the moment" in outputs.outputs[0].stop_reason


def test_a_sleep_takes_the_adapters_with_it() -> None:
    """Each is loaded before the first request that asks for it after that, as before: at level 2 the engine
    has none any more."""
    from types import SimpleNamespace

    loaded: list[int] = []

    class Core:
        vllm_config = SimpleNamespace(lora_config=SimpleNamespace(max_cpu_loras=4))

        def add_request(self, request: Any, request_wave: int = 0) -> None:
            """It has its turn."""

        def add_lora(self, asked: Any) -> None:
            loaded.append(asked.lora_int_id)

        def wake_up(self, tags: list[str] | None = None) -> bool:
            return tags is None

    load_adapters_first(Core)
    core = Core()
    request = SimpleNamespace(request_id="r", client_index=0, lora_request=SimpleNamespace(lora_int_id=1))
    core.add_request(request)
    core.add_request(request)
    assert loaded == [1]
    assert (core.wake_up(["weights"]), core.wake_up()) == (False, True)
    core.add_request(request)
    assert loaded == [1, 1]
