"""The client of a run: it counts what it sends, and never exceeds the budget."""

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
GLIMPSE_TOKENS = 64  # tokens of a stream that a server may generate until it sees that its client has left
HEADERS = {"accept": "application/json", "user-agent": "verbatim-conform"}
# With httpx's limit on idle connections, one may be closed that another thread was just given (httpcore 1.0):
# "Bad file descriptor".
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


@cache
def trusted(ca: str = "", cert: str = "", key: str = "") -> ssl.SSLContext:
    """The TLS context. ca: certificates to trust; empty: the system's CAs, or those of SSL_CERT_FILE, as for
    OpenSSL's own programs. cert, key: the client's own. Raises ConformError, which names the file."""
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
    """Refuse an encrypted key: without this, OpenSSL asks for the password at the terminal."""
    raise ValueError("the private key is encrypted; give a decrypted one")


class Client:
    """base: the URL before /completions, without a slash at its end. key: sent as the bearer token.

    socket_path: of the server's Unix socket; empty: base has the address. context: for TLS. waits: called
    before each wait that a 429 asks for.
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
            transport = httpx.HTTPTransport(uds=socket_path, verify=self.context, limits=LIMITS)
        self._http = httpx.Client(
            timeout=timeout_s,
            transport=transport,
            headers=HEADERS,
            trust_env=False,
            verify=self.context,
            limits=LIMITS,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET a path below the base, or a whole URL."""
        return self.send("GET", path, **options)

    def post(self, body: Any, *, path: str = "/completions", **options: Any) -> httpx.Response:
        """Send a completion request, and return any answer. Bytes are sent unchanged."""
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
        """Send one request and read its whole answer. A header of None is not sent, not even that
        of the key."""
        self.budget.take(tokens)
        while True:
            response = self._http.send(self._request(method, path, headers, body))
            if response.status_code != 429 or not self.budget.retry():
                break
            self._wait(response)
        self.budget.give_back(tokens - used_tokens(response, tokens))
        return response

    def arrivals(self, body: Json) -> tuple[str, list[float]]:
        """(a stream's text, the time of each piece in seconds)."""
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
        """The answer to a request that would be long if it were answered: only the first piece of a stream is
        read, then the connection closes, so that the server can stop."""
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
        self._waits(f"waiting {seconds} s, as the server asks (429)")
        time.sleep(seconds)


def glimpse_tokens(body: Json) -> int:
    return most_tokens({**body, "max_tokens": 0}) + GLIMPSE_TOKENS


def used_tokens(response: httpx.Response, most: int) -> int:
    """By the reply's usage; none for a refusal, all if the reply does not say."""
    if response.status_code >= 400:
        return 0
    counts = [message["usage"] for message in _messages(response) if message.get("usage")]
    try:
        return min(most, int(counts[-1]["total_tokens"]))
    except (IndexError, KeyError, TypeError, ValueError):
        return most


def _messages(response: httpx.Response) -> list[Json]:
    """The JSON objects of a reply or stream; empty if it is neither."""
    try:
        if "event-stream" in response.headers.get("content-type", ""):
            return [object_of(data) for data in data_of(response.text) if data != DONE]
        return [object_of(response.text)]
    except Exception:  # noqa: BLE001  # whatever the server has sent, the rule that reads it reports it
        return []


def reply_of(response: httpx.Response) -> Json:
    """The reply to a request, which must succeed."""
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    return object_of(response.text)


def stream_of(response: httpx.Response) -> list[Json]:
    """The chunks of a stream, which must succeed."""
    require(response.status_code == 200, f"{response.status_code}: {shown(response.text)}")
    return chunks_of(response.text)
