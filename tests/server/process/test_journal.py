"""The journal of a server as its users start it, on engines that are simulated."""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from server.cli import cli
from server.journal.entry import Entry, decode
from server.journal.files import CURRENT
from server.journal.reading import Reader
from server.journal.usage import usage_of
from tests.disks import small_disk
from tests.helpers import byte_level, model_directory
from tests.serving import Client, Server, frames, serving, wait_for

KEYS = ("anna", "berta")
URL = "/v3/openai/completions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = model_directory(tmp_path_factory.mktemp("model"), byte_level(), context_size=4096)
    return {"id": "m", "path": str(path), "engine": "simulated"}


@contextlib.contextmanager
def started(folder: Path, model: dict[str, Any], **settings: Any) -> Iterator[Server]:
    """A server with a journal in folder/journal that keeps all."""
    journal = {"path": "journal", "prompts": True, "texts": True} | settings.pop("journal", {})
    with serving(folder, {"models": [model], "journal": journal, **settings}) as server:
        server.wait_ready()
        yield server


def entries(folder: Path) -> list[Entry]:
    return list(Reader(folder / "journal"))


def lines(folder: Path) -> int:
    path = folder / "journal" / CURRENT
    return path.read_bytes().count(b"\n") if path.exists() else 0


def connect(server: Server, key: str = "any") -> Client:
    return Client(server.url(), key, "m")


def end(server: Server, number: int = signal.SIGTERM) -> None:
    server.process.send_signal(number)
    server.process.wait(60)


def command(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["journal", *map(str, words)])
    return result.exit_code, result.stdout


def test_usage_is_the_sum_of_the_replies(tmp_path: Path, model: dict[str, Any]) -> None:
    """Whatever is asked, by whichever key, over two processes: streams, whole replies, n, best_of, several
    prompts, refused ones. The records' sums are those of the `usage` that the clients got."""
    told, statuses = Counter[str](), Counter[tuple[str, int]]()
    made = {name: new_key(name, tmp_path / "made.txt") for name in KEYS}
    settings = {"api_keys_file": str(tmp_path / "made.txt"), "workers": 2}
    with started(tmp_path, model, **settings) as server:
        url = server.url()
        chance = random.Random(14)

        def ask(number: int) -> None:
            name, body = chance.choice([*KEYS, ""]), body_of(chance)
            with Client(url, made.get(name, "wrong"), "m") as client:
                response = client.ask(**body)
                statuses[name, response.status_code] += 1
                if response.status_code != 200:
                    return
                streams = body.get("stream")
                reply = json.loads(frames(response.text)[-2]) if streams else response.json()
                told[f"{name} requests"] += 1
                for what in ("prompt_tokens", "completion_tokens"):
                    told[f"{name} {what}"] += reply["usage"][what]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(150)))
        end(server)
    found = entries(tmp_path)
    assert Counter((one.key, one.status) for one in found) == statuses
    sums = Counter[str]()
    for place, total in usage_of(one for one in found if one.status == 200).items():
        sums[f"{place.key} requests"] += total.requests
        sums[f"{place.key} prompt_tokens"] += total.prompt_tokens
        sums[f"{place.key} completion_tokens"] += total.completion_tokens
    assert sums == told
    assert told["anna completion_tokens"] > 100
    for one in found:
        assert sum(c.tokens for c in one.candidates) == one.completion_tokens
    code, out = command("usage", "--from", tmp_path / "journal", "--csv", "--key", "anna")
    assert code == 0
    total = [
        sum(map(int, column))
        for column in zip(*(row.split(",")[3:] for row in out.splitlines()[1:]), strict=True)
    ]
    assert (total[2], total[4]) == (told["anna prompt_tokens"], told["anna completion_tokens"])


def new_key(name: str, file: Path) -> str:
    result = CliRunner().invoke(cli, ["keys", "new", name, "--file", str(file)])
    return result.stdout.splitlines()[0]


def body_of(chance: random.Random) -> dict[str, Any]:
    """A request of any kind, some of them refused."""
    body: dict[str, Any] = {"max_tokens": chance.randint(1, 30), "seed": chance.randint(0, 9)}
    body["prompt"] = chance.choice(["hello", ["a", "hello world", "b"], [5, 6, 7], [[5], [6, 7]]])
    if chance.random() < 0.4:
        body["n"] = chance.randint(1, 3)
    if chance.random() < 0.3:
        body["best_of"] = body.get("n", 1) + chance.randint(0, 3)
    if chance.random() < 0.5 and body.get("best_of", 1) == body.get("n", 1):
        body["stream"] = True
    if chance.random() < 0.3:
        body["stop"] = chance.choice(["e", ["x", "o"]])
    if chance.random() < 0.2:
        body["logprobs"] = 2
    if chance.random() < 0.1:
        body["temperature"] = 5
    return body


def test_sigterm_loses_nothing(tmp_path: Path, model: dict[str, Any]) -> None:
    """What was running when it came is in the journal, as it ended."""
    with started(tmp_path, model) as server, ThreadPoolExecutor(20) as pool:
        url = server.url()

        def ask(number: int) -> int:
            with Client(url, "any", "m") as client:
                return client.ask(max_tokens=300, ignore_eos=True).status_code  # three seconds

        running = [pool.submit(ask, number) for number in range(20)]
        with connect(server) as client:
            wait_for(lambda: client.num_begun() == 20, 60)
        assert not all(one.done() for one in running)
        end(server)
        assert [one.result() for one in running] == [200] * 20
    assert [(one.status, one.completion_tokens) for one in entries(tmp_path)] == [(200, 300)] * 20


def test_kill_9_costs_a_moment(tmp_path: Path, model: dict[str, Any]) -> None:
    """What was written is there; the next server goes on in the same file, also after half a line."""
    with started(tmp_path, model) as server:
        with connect(server) as client:
            for _ in range(20):
                client.complete(max_tokens=2)
        wait_for(lambda: lines(tmp_path) == 20, 30)
        end(server, signal.SIGKILL)
    path = tmp_path / "journal" / CURRENT
    path.write_bytes(path.read_bytes()[:-30])  # as if it had been killed in the middle of the last
    with started(tmp_path, model) as server:
        with connect(server) as client:
            client.complete(max_tokens=2)
        end(server)
    reader = Reader(tmp_path / "journal")
    assert (len(list(reader)), reader.num_damaged) == (20, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_client_that_leaves(tmp_path: Path, model: dict[str, Any]) -> None:
    """499, with the tokens so far."""
    with started(tmp_path, model) as server:
        with connect(server) as client:
            body = {"model": "m", "prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "stream": True}
            with client.stream("POST", URL, json=body, headers={"x-request-id": "left"}) as response:
                next(response.iter_bytes())
        wait_for(lambda: lines(tmp_path) == 1, 30)
        end(server)
    (one,) = entries(tmp_path)
    assert (one.id, one.status, one.gone) == ("left", 499, True)
    assert 0 < one.completion_tokens < 4000


def test_overload_and_limits(tmp_path: Path, model: dict[str, Any]) -> None:
    """A 503 and a 429 are records with their reasons."""
    settings = {"max_pending": 2, "rate_limits": {"requests_per_minute": 2}}
    with started(tmp_path, model, **settings) as server:
        body = {
            "model": "m",
            "prompt": "hello",
            "max_tokens": 4000,
            "ignore_eos": True,
            "stream": True,
            "n": 2,
        }
        with (
            connect(server) as client,
            connect(server) as other,
            client.stream("POST", URL, json=body) as response,
        ):
            assert response.status_code == 200
            statuses = [other.ask(max_tokens=2).status_code for _ in range(2)]
        wait_for(lambda: lines(tmp_path) == 3, 30)
        end(server)
    assert statuses == [503, 429]
    assert [(one.status, one.reason, one.key) for one in entries(tmp_path)] == [
        (503, "SERVICE_NOT_AVAILABLE", "anonymous"),
        (429, "RATE_LIMIT_EXCEEDED", "anonymous"),
        (499, "CLIENT_LEFT", "anonymous"),
    ]


def test_a_reload_takes_it_over(tmp_path: Path, model: dict[str, Any]) -> None:
    """Another folder from then on, in each process; no record is lost. A folder that cannot be is refused."""
    file = tmp_path / "models.yaml"
    with started(tmp_path, model, workers=2) as server:

        def ask(count: int) -> None:
            for _ in range(count):  # each over a connection of its own, to whichever process
                with connect(server) as client:
                    client.complete(max_tokens=2)

        def reload(path: str, **journal: Any) -> int:
            config = json.loads(json.dumps(_config(file)))
            config["journal"] = {"path": path, **journal}
            file.write_text(json.dumps(config))
            port = httpx.URL(server.url()).port
            words = [
                sys.executable,
                "-c",
                "from server.cli import main; main()",
                "reload",
                "--port",
                str(port),
            ]
            return subprocess.run(words, check=False, capture_output=True).returncode

        ask(10)
        assert reload("other", prompts=False) == 0
        ask(10)
        (tmp_path / "taken").touch()
        assert reload("taken/journal") == 1
        assert "journal.path: cannot write in" in server.said()
        ask(10)
        end(server)
    assert len(entries(tmp_path)) == 10
    others = list(Reader(tmp_path / "other"))
    assert len(others) == 20
    assert all(one.request is None for one in others)


def _config(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def test_a_journal_that_cannot_be_is_said_at_the_start(tmp_path: Path, model: dict[str, Any]) -> None:
    """In a sentence, with exit code 2."""
    (tmp_path / "journal").touch()
    with serving(tmp_path, {"models": [model], "journal": {"path": "journal"}}) as server:
        assert server.process.wait(60) == 2
        assert (
            f"verbatim: journal.path: cannot write in {tmp_path / 'journal'}: File exists." in server.said()
        )


def test_redaction_in_a_process_beside_it(tmp_path: Path, model: dict[str, Any]) -> None:
    """Which ends with the server, also where that is killed."""
    with started(tmp_path, model, journal={"redact": [r"\S+@\S+"]}) as server:
        with connect(server) as client:
            client.complete(prompt="from anna@example.com", max_tokens=2)
        wait_for(lambda: lines(tmp_path) == 1, 60)
        (beside,) = [one for one in server.engines() if "server.journal.redaction" in one.cmdline()]
        end(server, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(beside.pid) or beside.status() == psutil.STATUS_ZOMBIE, 30)
    (one,) = entries(tmp_path)
    assert one.request is not None
    assert one.request["prompt"] == "from [redacted]"


def test_a_full_disk(tmp_path: Path, model: dict[str, Any]) -> None:
    """Requests are answered as before; the log says it once, and once when there is room again. What waited
    is written then."""
    with small_disk("64k") as disk:
        journal = disk / CURRENT
        with started(tmp_path, model, journal={"path": str(disk)}) as server:
            with connect(server) as client:
                client.complete(max_tokens=2)
                wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 1, 30)
                fill = (disk / "fill").open("wb")
                with contextlib.suppress(OSError):
                    while fill.write(b"x" * 4096):
                        fill.flush()
                for _ in range(60):  # more than is left of the file's last page
                    assert client.ask(max_tokens=2, user="u" * 200).status_code == 200
                wait_for(lambda: "the journal cannot be written: No space left" in server.said(), 30)
                assert client.ask(max_tokens=2).status_code == 200
                with contextlib.suppress(OSError):
                    fill.close()
                (disk / "fill").unlink()
                wait_for(
                    lambda: "the journal can be written again; 0 records were dropped" in server.said(), 30
                )
            end(server)
        reader = Reader(disk)
        assert (len(list(reader)), reader.num_damaged) == (62, 0)
        assert len(re.findall("journal cannot be written", server.said())) == 1


def test_a_disk_that_stands_still(tmp_path: Path, model: dict[str, Any]) -> None:
    """No request waits for it, neither does the end for long. Here another process has the file's lock."""
    with started(tmp_path, model) as server, connect(server) as client:
        client.complete(max_tokens=2)
        wait_for(lambda: lines(tmp_path) == 1, 30)
        with (tmp_path / "journal" / CURRENT).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for _ in range(10):
                assert client.complete(max_tokens=5, ignore_eos=True)["usage"]["completion_tokens"] == 5
                assert client.chunks(max_tokens=5, ignore_eos=True)
            assert lines(tmp_path) == 1
        wait_for(lambda: lines(tmp_path) == 21, 30)
        assert client.metric("verbatim_journal_records_total") == 21
        with (tmp_path / "journal" / CURRENT).open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            client.complete(max_tokens=2)
            end(server)
    assert server.process.returncode == 0
    assert "the last 1 records are missing in the journal" in server.said()


def test_a_request_once_more(tmp_path: Path, model: dict[str, Any]) -> None:
    """`verbatim journal replay` gets the same reply from the same server: of streams, n, best_of, defaults
    and a seed that was drawn. Where the reply differs, it says so."""
    with started(tmp_path, model) as server:
        url = server.url()
        bodies: list[dict[str, Any]] = [
            {"stream": True, "max_tokens": 30, "n": 2, "stop": ["e"]},
            {"best_of": 4, "n": 2, "max_tokens": 20, "prompt": ["hello", "a"]},
            {"prompt": [5, 6, 7], "return_token_ids": True},
        ]
        with connect(server) as client:
            for number, body in enumerate(bodies):
                client.post(
                    URL, json={"model": "m", "prompt": "hello"} | body, headers={"x-request-id": f"r{number}"}
                )
        wait_for(lambda: lines(tmp_path) == 3, 30)
        for number in range(3):
            code, out = command("replay", f"r{number}", "--from", tmp_path / "journal", "--url", url)
            assert code == 0, out
            assert out.count("the same") == len(out.splitlines())
        path = tmp_path / "journal" / CURRENT
        first = decode(path.read_bytes().splitlines()[0])
        path.write_text(path.read_text().replace(str(first.params["seed"]), "12345"))
        code, out = command("replay", "r0", "--from", tmp_path / "journal", "--url", url)
        assert (code, "differs from character" in out or "ends with" in out) == (1, True)
