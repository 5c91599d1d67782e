"""The client of a run: it counts what it sends, and sends nothing beyond the budget."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import httpx

from conform.subject.budget import Budget, most_tokens
from conform.subject.ends import ConformError, require, shown
from conform.subject.frames import DONE, Json, chunks_of, data_of, object_of

MOST_WAIT_S = 60
GLIMPSE_TOKENS = 64  # what a server may make of a stream until it sees that its client has gone
HEADERS = {"accept": "application/json", "user-agent": "verbatim-conform"}


@cache
def trusted(ca: str = "", cert: str = "", key: str = "") -> ssl.SSLContext:
    """ca: certificates to trust; empty: the system's authorities, or those of SSL_CERT_FILE, as for OpenSSL's
    own programs. cert, key: shown to the server. Raises ConformError that names the file."""
    said = f"--ca {ca}"
    try:
        context = ssl.create_default_context(cafile=ca or None)
        said = f"--cert {cert}" + (f", --cert-key {key}" if key else "")
        if cert:
            context.load_cert_chain(cert, key or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConformError(f"{said}: {getattr(error, 'strerror', None) or error}") from None
    return context


def _no_password() -> str:
    """OpenSSL would ask for it at the terminal."""
    raise ValueError("the key is encrypted; decrypt it")


class Client:
    """base: the URL up to /completions, without a slash at its end. key: sent as the bearer token.

    socket_path: of the Unix socket that the server listens on; empty: base says where it does.
    context: of TLS. waits: is told of each wait that a 429 has asked for.
    """

    def __init__(
        self,
        base: str,
        key: str,
        *,
        timeout_s: float = 60,
        transport: httpx.BaseTransport | None = None,
        socket_path: str = "",
        context: ssl.SSLContext | None = None,
        waits: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.key = key
        self.timeout_s = timeout_s
        self.budget = Budget()
        self._waits = waits
        self.socket_path = socket_path
        self.context = context or trusted()
        if socket_path:
            transport = httpx.HTTPTransport(uds=socket_path, verify=self.context)
        self._http = httpx.Client(
            timeout=timeout_s, transport=transport, headers=HEADERS, trust_env=False, verify=self.context
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET below the base, or of a whole URL."""
        return self.send("GET", path, **options)

    def post(self, body: Any, *, path: str = "/completions", **options: Any) -> httpx.Response:
        """A completion request, whatever its answer; bytes are sent as they are."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.send("POST", path, tokens=options.pop("tokens", most_tokens(body)), **content, **options)

    def send(
        self,
        method: str,
        path: str,
        *,
        tokens: int = 0,
        headers: Mapping[str, Any] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """One request, its answer read whole. A header of None is not sent, that of the key included."""
        self.budget.take(tokens)
        while True:
            response = self._http.send(self._request(method, path, headers, body))
            if response.status_code != 429 or not self.budget.retry():
                break
            self._wait(response)
        self.budget.give_back(tokens - used_tokens(response, tokens))
        return response

    def arrivals(self, body: Json) -> tuple[str, list[float]]:
        """A stream's text, and when each piece of it came, in seconds."""
        tokens = most_tokens(body)
        self.budget.take(tokens)
        request = self._request("POST", "/completions", None, {"json": {**body, "stream": True}})
        response = self._http.send(request, stream=True)
        try:
            pieces = [(time.monotonic(), piece) for piece in response.iter_bytes()]
        finally:
            response.close()
        text = b"".join(piece for _, piece in pieces).decode("utf-8", "replace")
        require(response.status_code == 200, f"{response.status_code}: {shown(text)}")
        return text, [at for at, _ in pieces]

    def glimpse(self, body: Json) -> httpx.Response:
        """The answer to a request that would be long if it were answered: a stream's first piece alone, and
        then the connection closes, so that the server need not go on."""
        tokens = glimpse_tokens(body)
        self.budget.take(tokens)
        request = self._request("POST", "/completions", None, {"json": {**body, "stream": True}})
        response = self._http.send(request, stream=True)
        try:
            if response.status_code == 200:
                next(response.iter_bytes(), b"")
            else:
                response.read()
                self.budget.give_back(tokens)
        finally:
            response.close()
        return response

    def _request(
        self, method: str, path: str, headers: Mapping[str, Any] | None, body: Mapping[str, Any]
    ) -> httpx.Request:
        url = path if "://" in path else self.base + path
        sent = {"authorization": f"Bearer {self.key}", **(headers or {})}
        sent = {name: value for name, value in sent.items() if value is not None}
        return self._http.build_request(method, url, headers=sent, **body)

    def _wait(self, response: httpx.Response) -> None:
        header = response.headers.get("retry-after", "1")
        seconds = min(int(header), MOST_WAIT_S) if header.isdigit() else 1
        self._waits(f"the server asks to come again in {seconds} s (429)")
        time.sleep(seconds)


def glimpse_tokens(body: Json) -> int:
    return most_tokens({**body, "max_tokens": 0}) + GLIMPSE_TOKENS


def used_tokens(response: httpx.Response, most: int) -> int:
    """By the reply's own usage; nothing of a refusal, and all where a reply does not say."""
    if response.status_code >= 400:
        return 0
    counts = [message["usage"] for message in _messages(response) if message.get("usage")]
    try:
        return min(most, int(counts[-1]["total_tokens"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return most


def _messages(response: httpx.Response) -> list[Json]:
    """The JSON objects of a reply or of a stream; none where it is neither."""
    try:
        if "event-stream" in response.headers.get("content-type", ""):
            return [object_of(data) for data in data_of(response.text) if data != DONE]
        return [object_of(response.text)]
    except Exception:  # noqa: BLE001  # whatever the server has sent, the rule that reads it says what is wrong
        return []


def reply_of(response: httpx.Response) -> Json:
    """The reply of a request that was answered."""
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    return object_of(response.text)


def stream_of(response: httpx.Response) -> list[Json]:
    """The chunks of a stream that was answered."""
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    return chunks_of(response.text)
