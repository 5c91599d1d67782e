"""What several tests need: small tokenizers, a model on a simulated engine, an application that runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from fastapi import FastAPI
from starlette.types import Message
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.base import Job, Sink
from server.engine.replicas import Replicas
from server.engine.served import ServedModel
from server.engine.simulated.engine import Script, SimulatedEngine
from server.engine.supervisor import Patience
from server.http.app import build_app
from server.text.tokenizer import load_tokenizer

URL = "/v3/openai/completions"
CONTEXT_SIZE = 64
VOCAB_SIZE = 300  # a few more than the tokenizers have, as padded vocabularies do
BOS, EOS = "<s>", "</s>"
ASK = {"model": "m", "prompt": "hello", "max_tokens": 8, "seed": 1}
LONG = {"model": "m", "prompt": "hello", "max_tokens": 60}
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ã", "©")]


def byte_level() -> Tokenizer:
    """As GPT-2's: <s> is 0, </s> is 1, then every byte, then hello, " w", é and their parts."""
    tokens = [BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def sentencepiece(*, metaspace: bool = False) -> Tokenizer:
    """As Llama 2's, with a token for every byte; or with a Metaspace decoder."""
    merges = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll"), ("▁hell", "o"), ("o", "r")]
    tokens = ["<unk>", BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁helowr", "é", "世"]
    tokens += [a + b for a, b in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    tokenizer.add_special_tokens(["<unk>", BOS, EOS])
    tokenizer.add_tokens([AddedToken("▁▁", normalized=False)])
    return tokenizer


def model_directory(
    path: Path, tokenizer: Tokenizer, *, bos: bool = True, context_size: int = CONTEXT_SIZE
) -> Path:
    """A model without weights, which is all that a simulated engine needs."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": context_size}
    (path / "config.json").write_text(json.dumps(config))
    names = {"eos_token": {"content": EOS}} | ({"bos_token": BOS} if bos else {})
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    return path


class Engine(SimulatedEngine):
    """The simulated engine, and what it was asked."""

    def __init__(self, script: Script | None = None, *, step_s: float = 0.0) -> None:
        super().__init__(VOCAB_SIZE, script=script, step_s=step_s)
        self.jobs: list[Job] = []

    def submit(self, job: Job, sink: Sink) -> None:
        self.jobs.append(job)
        super().submit(job, sink)


def served(directory: Path, engine: Engine, *, max_pending: int = 4096, **settings: Any) -> ServedModel:
    """A model named m, on that engine."""
    keys: dict[str, Any] = {"id": "m", "path": directory} | settings
    chosen = ModelSettings(**keys)
    return ServedModel(
        settings=chosen,
        tokenizer=load_tokenizer(directory, VOCAB_SIZE),
        context_size=CONTEXT_SIZE,
        vocab_size=VOCAB_SIZE,
        engine=Replicas(
            chosen.id, lambda number: engine, max_pending=max_pending, patience=Patience((0.0, 60.0))
        ),
    )


def number_of(job_id: str) -> int:
    """A candidate's number in its request, on whichever engine."""
    return int(job_id.rpartition("-")[2].partition(".")[0])


def says(model: ServedModel, *texts: str, then: str = EOS) -> Script:
    """A script by which the first candidate says the first text, and so on, each ended by a token."""
    ids = [[*model.tokenizer.encode(text), model.tokenizer.encode(then)[0]] for text in texts]

    def script(job: Job, position: int) -> int:
        answer = ids[number_of(job.id) % len(ids)]
        return answer[min(position, len(answer) - 1)]

    return script


def talking(directory: Path, *texts: str, **settings: Any) -> ServedModel:
    """A model that says these texts."""
    model = served(directory, engine := Engine(), **settings)
    engine._script = says(model, *texts)
    return model


def slow(directory: Path, **settings: Any) -> tuple[ServedModel, Engine]:
    """A model that would talk for a minute."""
    engine = Engine(lambda job, position: 66, step_s=1.0)
    return served(directory, engine, **settings), engine


def eager(directory: Path, *, step_s: float = 0.002) -> tuple[ServedModel, Engine]:
    engine = Engine(lambda job, position: 66, step_s=step_s)
    return served(directory, engine), engine


def app_of(*models: ServedModel, **settings: Any) -> FastAPI:
    return build_app(Settings(models=tuple(model.settings for model in models), **settings), list(models))


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, whose engines run."""
    tasks = [asyncio.create_task(model.engine.run()) for model in app.state.server.models.values()]
    await until(lambda: app.state.server.ready)
    transport, headers = httpx.ASGITransport(app), {"authorization": "Bearer key"}
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", headers=headers
        ) as client:
            yield client
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(happened: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Return once it has happened."""
    async with asyncio.timeout(within_s):
        while not happened():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


class Connection:
    """One HTTP request in ASGI's own terms, of a client that can leave in the middle."""

    def __init__(
        self, app: FastAPI, body: Any, *, path: str = URL, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.app = app
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.path = path
        self._headers = [("authorization", "Bearer key"), *headers]
        self.body_parts: list[bytes] = [body if isinstance(body, bytes) else orjson.dumps(body)]

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in self._headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    async def run(self) -> None:
        await self.app(self.scope(), self.receive, self.send)

    async def receive(self) -> Message:
        if self.body_parts:
            part = self.body_parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.body_parts)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def events(body: bytes) -> list[Any]:
    """The messages of a stream, whose frames are nothing but data lines, the last of them [DONE]."""
    frames = body.decode().split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def folded(chunks: list[Any]) -> list[dict[str, Any]]:
    """The choices that the chunks of a stream add up to, by the contract's rules alone."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            new = {"index": part["index"], "text": "", "logprobs": None, "finish_reason": None}
            choice = choices.setdefault(part["index"], new)
            assert choice["finish_reason"] is None, "a choice goes on after its end"
            choice["text"] += part["text"]
            choice["finish_reason"] = part["finish_reason"]
            for name, values in (part["logprobs"] or {}).items():
                choice["logprobs"] = choice["logprobs"] or {}
                choice["logprobs"].setdefault(name, []).extend(values)
    return [choices[index] for index in sorted(choices)]
