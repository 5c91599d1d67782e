"""A server that gives every request the same reply, in this process or on a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

from conform.subject.budget import Cost
from conform.subject.client import Client
from conform.subject.rule import Check, Rule
from conform.subject.server import Subject

BASE = "http://server/v1"
ENTRY = {"id": "m", "object": "model", "created": 1, "owned_by": "nobody"}
CHOICE = {"index": 0, "text": "a text", "logprobs": None, "finish_reason": "length"}
USED = 7
REPLY = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": USED},
}

SOME = Cost(100, 10_000)
ONE = Cost(1, 100)
Handler = Callable[[httpx.Request], httpx.Response]


def replies(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=REPLY)


def client_of(handler: Handler = replies, allowance: Cost = SOME) -> Client:
    client = Client(BASE, "key", transport=httpx.MockTransport(handler))
    client.budget.open(allowance)
    return client


def subject_of(handler: Handler = replies, profile: str = "hosted") -> Subject:
    return Subject(client_of(handler), profile, "m", ENTRY, [ENTRY], key=False, text="a text")


def rule_of(check: Check, name: str = "some.rule", cost: Cost = ONE, **fields: Any) -> Rule:
    return Rule(name, "It is so.", cost, check, **fields)


class _Answers(BaseHTTPRequestHandler):
    """The list of models under /v1, and the reply to everything else. keys: that were sent."""

    keys: set[str]

    def do_GET(self) -> None:
        found = self.path == "/v1/models"
        self._answer(
            200 if found else 404, {"object": "list", "data": [ENTRY]} if found else {"detail": "no"}
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, REPLY)

    def _answer(self, status: int, value: Any) -> None:
        self.keys.add(self.headers["authorization"].removeprefix("Bearer "))
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening(keys: set[str] | None = None) -> Iterator[str]:
    """Its URL. keys: gets those that are sent to it."""
    answers = type("Answers", (_Answers,), {"keys": set() if keys is None else keys})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
