from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from server.cli import OneParagraph, cli
from server.commands import check as check_module
from server.contract.request import CompletionRequest
from server.engine.vllm import devices

OTHER = """
import typer
from sealed import failures
from server import errors

more = typer.Typer()

@more.command()
def hello():
    print("hello")

@more.command()
def bye(): ...

def fail(kind: str):
    raise (getattr(errors, kind, None) or getattr(failures, kind))("what to do")
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A whole model, of one tensor without entries."""
    model = tmp_path / "model"
    model.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": 10}
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return model


def verbatim(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, words, env=environ)


class Server(ThreadingHTTPServer):
    """Answers with what it was given and remembers what it was asked."""

    daemon_threads = True
    status = 200
    reply: bytes = b""
    retry_after = ""
    asked: dict[str, Any]
    path = authorization = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer(200, b'{"data": [{"id": "first"}]}')

    def do_POST(self) -> None:
        self.server.path = self.path
        self.server.authorization = str(self.headers["Authorization"])
        self.server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(self.server.status, self.server.reply)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.reply = frames(
            {"index": 0, "text": "Pa"}, {"index": 0, "text": "ris", "finish_reason": "stop"}
        )
        yield server
        server.shutdown()
        thread.join()


def frames(*choices: dict[str, Any]) -> bytes:
    lines = [b": warming\n\n"]
    lines += [b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" for choice in choices]
    return b"".join(lines) + b"data: [DONE]\n\n"


def config(tmp_path: Path, text: str) -> str:
    (tmp_path / "c.yaml").write_text(text)
    return str(tmp_path / "c.yaml")


@pytest.mark.parametrize("command", ["serve", "check", "models"])
def test_configuration_mistake(tmp_path: Path, command: str) -> None:
    """A mistake in the configuration is one paragraph on standard error and exit code 2."""
    result = verbatim(command, "--config", config(tmp_path, "prot: 1\n"))
    assert result.exit_code == 2
    assert result.stderr.startswith('verbatim: c.yaml, line 1: unknown key "prot"')
    assert result.stderr.count("\n") == 1


def test_check_passes(tmp_path: Path, directory: Path) -> None:
    """A whole model passes the check."""
    result = verbatim("check", "--config", config(tmp_path, f"models: [{{id: a/b, path: {directory}}}]"))
    assert result.exit_code == 0
    assert "ok      a/b: LlamaForCausalLM" in result.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("sha256: {config.json: " + "a" * 64 + "}", "its SHA-256 is"),
        ("max_model_len: 65", "the model was made for 64"),
    ],
)
def test_check_fails(tmp_path: Path, directory: Path, more: str, words: str) -> None:
    """A model that could not be served fails the check with exit code 1, and the others are still checked."""
    text = f"models:\n - {{id: a, path: {directory}, {more}}}\n - {{id: b, path: {directory}}}\n"
    result = verbatim("check", "--config", config(tmp_path, text))
    assert result.exit_code == 1
    assert "failed  a: " in result.stdout
    assert words in result.stdout
    assert "ok      b: " in result.stdout


def test_check_of_the_machine(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this one's engines cannot do fails the check, unless it is for a machine with GPUs."""
    for module in (devices, check_module):
        monkeypatch.setattr(module, "installed", lambda build: True)
    file = config(tmp_path, f"models: [{{id: a, path: {directory}, sleep_level: 1}}]")
    result = verbatim("check", "--config", file)
    assert (result.exit_code, "Remove sleep_level" in result.stdout) == (1, True)
    assert verbatim("check", "--config", file, "--gpu-memory", "80GiB").exit_code == 0


def test_check_of_made_up_weights(tmp_path: Path, directory: Path) -> None:
    """A directory without weights passes where the engine takes random numbers for them."""
    (directory / "model.safetensors").unlink()
    text = f"models: [{{id: a, path: {directory}, engine_args: {{load_format: dummy}}}}]"
    result = verbatim("check", "--config", config(tmp_path, text))
    assert result.exit_code == 0
    assert "LlamaForCausalLM, 64 tokens of context, no weights" in result.stdout


def test_check_reads_the_key_file(tmp_path: Path, directory: Path) -> None:
    """A bad key file fails the check."""
    (tmp_path / "keys").write_text("alice\n")
    text = f"api_keys_file: keys\nmodels: [{{id: a, path: {directory}}}]"
    result = verbatim("check", "--config", config(tmp_path, text))
    assert result.exit_code == 1
    assert "keys, line 1" in result.stdout


def test_models(tmp_path: Path, directory: Path) -> None:
    """The table has a row for each model, and says what is wrong with one."""
    text = f"models:\n - {{id: a, path: {directory}}}\n - {{id: b, path: none}}\n"
    result = verbatim("models", "--config", config(tmp_path, text), COLUMNS="300")
    assert result.exit_code == 0
    assert "64" in result.stdout
    assert "does not exist" in result.stdout


def test_keys_new(tmp_path: Path) -> None:
    """The key alone is on standard output, and a second of the same name is refused."""
    file = str(tmp_path / "keys")
    first = verbatim("keys", "new", "alice", "--file", file, "--expires", "2030-01-31")
    assert first.stdout.startswith("vb-")
    assert first.stdout.count("\n") == 1
    assert "expires=2030-01-31" in Path(file).read_text()
    assert verbatim("keys", "new", "ops", "--file", file, "--role", "admin", "--model", "m").exit_code == 0
    assert Path(file).read_text().endswith(" roles=admin models=m\n")
    assert verbatim("keys", "new", "bob", "--file", file, "--role", "root").exit_code == 2
    assert verbatim("keys", "new", "bob", "--file", file, "--model", "a b").exit_code == 2
    limits = ("--requests-per-minute", "3", "--tokens-per-minute", "900", "--group", "staff")
    assert verbatim("keys", "new", "carol", "--file", file, *limits).exit_code == 0
    assert " group=staff requests_per_minute=3 tokens_per_minute=900\n" in Path(file).read_text()
    assert verbatim("keys", "new", "bob", "--file", file, "--group", "a b").exit_code == 2
    assert verbatim("keys", "new", "bob", "--file", file, "--requests-per-minute", "-1").exit_code == 2
    assert verbatim("keys", "new", "alice", "--file", file).exit_code == 2
    assert "YYYY-MM-DD" in verbatim("keys", "new", "bob", "--file", file, "--expires", "soon").stderr


def test_commands_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point in `verbatim.commands` is a command; its failures are one paragraph and an exit code."""
    (tmp_path / "other.py").write_text(OTHER)
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[verbatim.commands]\nfail = other:fail\nmore = other:more\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = typer.Typer(cls=OneParagraph)
    app.command()(lambda: None)
    app.command("other")(lambda: None)
    assert CliRunner().invoke(app, ["more", "hello"]).stdout == "hello\n"
    for kind, code in (("ConfigurationError", 2), ("SiteError", 2), ("BundleError", 1), ("EngineFailed", 1)):
        result = CliRunner().invoke(app, ["fail", kind])
        assert (result.exit_code, result.stderr) == (code, "verbatim: what to do\n")


def test_version_imports_nothing_heavy() -> None:
    """The versions are told without importing what they are of."""
    before = {"vllm", "torch"} & set(sys.modules)
    result = verbatim("version")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["verbatim", "python", "vllm", "torch"]
    assert {"vllm", "torch"} & set(sys.modules) == before


def test_complete_streams(server: Server) -> None:
    """The text goes to standard output, the rest to standard error; the first model is asked."""
    result = verbatim("complete", "Capital?", "--url", server.url, "--api-key", "k")
    assert (result.exit_code, result.stdout) == (0, "Paris\n")
    assert "[stop]" in result.stderr
    assert server.asked == {"model": "first", "prompt": "Capital?", "stream": True}
    assert (server.path, server.authorization) == ("/v3/openai/completions", "Bearer k")


def test_complete_sends_every_field(server: Server) -> None:
    """Each field of the contract has a flag that sends it in its own type."""
    values: dict[str, Any] = {
        "model": "m", "max_tokens": 3, "n": 2, "best_of": 2, "seed": 1, "temperature": 0.5, "top_p": 0.9,
        "top_k": 5, "min_p": 0.1, "frequency_penalty": -1.0, "presence_penalty": 1.0,
        "repetition_penalty": 1.1, "logprobs": 2, "suffix": "s", "user": "u", "min_tokens": 1,
        "truncate_prompt_tokens": 9, "priority": 3, "truncation_side": "left", "stream_interval": 4,
        "cache_salt": "salt",
    }  # fmt: skip
    words = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    words += [
        "--stop",
        "a",
        "--stop",
        "b",
        "--stop-token-id",
        "7",
        "--logit-bias",
        '{"50256": -100}',
        "--echo",
    ]
    words += ["--allowed-token-id", "7", "--allowed-token-id", "8", "--bad-word", "no"]
    words += ["--logprob-token-id", "9"]
    words += ["--response-format", '{"type": "text"}', "--structured-outputs", '{"choice": ["a"]}']
    words += ["--no-add-special-tokens", "--no-parse-special", "--return-token-ids"]
    words += ["--no-spaces-between-special-tokens", "--return-candidates"]
    words += ["--ignore-eos", "--no-skip-special-tokens", "--no-include-stop-str-in-output"]
    words += [
        "--stream-options",
        '{"include_usage": true}',
        "--prompt-json",
        "[1, 2]",
        "--url",
        server.url + "/v1",
    ]
    assert verbatim("complete", *words).exit_code == 0
    expected = values | {
        "prompt": [1, 2], "stop": ["a", "b"], "stop_token_ids": [7], "logit_bias": {"50256": -100},
        "echo": True, "ignore_eos": True, "skip_special_tokens": False, "include_stop_str_in_output": False,
        "stream": True, "stream_options": {"include_usage": True},
        "allowed_token_ids": [7, 8], "bad_words": ["no"], "response_format": {"type": "text"},
        "structured_outputs": {"choice": ["a"]}, "add_special_tokens": False, "parse_special": False,
        "return_token_ids": True, "logprob_token_ids": [9], "spaces_between_special_tokens": False,
        "return_candidates": True,
    }  # fmt: skip
    assert server.asked == expected
    assert set(expected) == set(CompletionRequest.model_fields)
    assert server.path == "/v1/completions"


@pytest.mark.parametrize(
    ("words", "stream"),
    [
        ((), True),
        (("--no-stream",), False),
        (("--best-of", "3"), False),
        (("--best-of", "3", "--n", "3"), True),
    ],
)
def test_complete_streams_where_it_can(server: Server, words: tuple[str, ...], stream: bool) -> None:
    """A stream is asked for unless it is declined, or best_of above n forbids it."""
    server.reply = (
        frames() if stream else b'{"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}'
    )
    assert verbatim("complete", "x", "--url", server.url, *words).exit_code == 0
    assert server.asked["stream"] is stream


def test_complete_shows_candidates(server: Server) -> None:
    """Those of best_of are a table on standard error: which became a choice, which was given up, and when."""
    best = {"prompt_index": 0, "number": 1, "mean_logprob": -0.5, "completion_tokens": 3, "choice": 0}
    lost = {"prompt_index": 0, "number": 0, "mean_logprob": None, "completion_tokens": 2, "choice": None}
    told = [lost | {"given_up_after": 2}, best | {"given_up_after": None}]
    server.reply = json.dumps({"choices": [{"index": 0, "text": "x"}], "candidates": told}).encode()
    result = verbatim("complete", "x", "--url", server.url, "--best-of", "2", "--return-candidates")
    lines = [line.split() for line in result.stderr.splitlines()]
    assert ["0", "0", "2", "given", "up", "after", "2", "tokens"] in lines
    assert ["0", "1", "-0.5000", "3", "choice", "0"] in lines


def test_complete_shows_logprobs_usage_and_choices(server: Server) -> None:
    """Further choices follow the first; logprobs and usage are on standard error."""
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [0]}
    choices = [
        {"index": 0, "text": "a", "finish_reason": "stop", "logprobs": logprobs},
        {"index": 1, "text": "b", "finish_reason": "length", "logprobs": None},
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    server.reply = json.dumps({"choices": choices, "usage": usage}).encode()
    result = verbatim("complete", "x", "--url", server.url, "--no-stream")
    assert result.stdout == "a\n--- choice 1\nb\n"
    assert "-0.5000" in result.stderr
    assert "[stop, length; 3 + 2 tokens]" in result.stderr


def test_complete_json(server: Server) -> None:
    """--json prints the reply as it came, and does not stream."""
    server.reply = b'{"choices":  []}'
    assert verbatim("complete", "x", "--url", server.url, "--json").stdout == '{"choices":  []}\n'
    assert server.asked["stream"] is False


@pytest.mark.parametrize(
    ("status", "reply", "words"),
    [
        (
            400,
            b'{"code": 400, "reason": "INVALID_REQUEST_BODY", "message": "n is wrong"}',
            "INVALID_REQUEST_BODY: n is wrong",
        ),
        (401, b'{"error": {"message": "no key"}}', "401: no key"),
        (502, b"<html>", "502: <html>"),
        (200, b"<html>", "ended without [DONE]"),
        (
            200,
            b'data: {"code": 503, "reason": "SERVICE_NOT_AVAILABLE", "message": "died"}\n\n',
            "SERVICE_NOT_AVAILABLE: died",
        ),
        (200, b"data: {\n\n", "not a JSON object"),
    ],
)
def test_complete_shows_errors(server: Server, status: int, reply: bytes, words: str) -> None:
    """What the server says is wrong is shown in one line, with exit code 1."""
    server.status, server.reply = status, reply
    result = verbatim("complete", "x", "--url", server.url)
    assert result.exit_code == 1
    assert words in result.stderr


def test_complete_says_when_to_ask_again(server: Server) -> None:
    """As the server's Retry-After does."""
    server.status, server.reply, server.retry_after = 429, b'{"message": "3 requests per minute"}', "48"
    result = verbatim("complete", "x", "--url", server.url)
    assert "3 requests per minute; send it again after 48 s" in result.stderr


def test_complete_without_tls_to_a_server_that_has_it() -> None:
    """Such a server closes the connection without a word; the message says what to try."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        result = verbatim("complete", "x", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert "if the server has TLS, its address begins with https://" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "--url", "http://127.0.0.1:1"), "no server answers at http://127.0.0.1:1; start one"),
        (("x", "--url", "ftp://a"), "not an http or https URL"),
        (("x", "--url", "http://a:b"), "is not a URL"),
        (("x", "--api-key", "é"), "API key"),
        ((), "give either a prompt or --prompt-json"),
        (("x", "--logit-bias", "{"), "--logit-bias is not valid JSON"),
    ],
)
def test_complete_shows_mistakes(words: tuple[str, ...], message: str) -> None:
    """A server that is not there, or a wrong flag, is one line and exit code 1."""
    result = verbatim("complete", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith("verbatim: ")
    assert message in result.stderr
