"""`verbatim journal replay`: a request of the journal once more, and whether its reply is the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.client.complete import DEFAULT_URL
from server.client.endpoint import Endpoint
from server.client.failure import ClientError
from server.client.trust import CA, Cert, CertKey, Trust
from server.commands.journal import Config, Where, records
from server.errors import ConfigurationError
from server.journal.entry import Candidate, Entry
from server.journal.filters import Filter

# Of a stream alone; the reply says the same without it.
OF_STREAMS = ("stream", "stream_options", "stream_interval")
SHOWN_CHARS = 40  # of a text, where it differs


def replay(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The request's id, or its beginning.")],
    where: Where = None,
    config: Config = None,
    url: Annotated[
        str, typer.Option(envvar="VERBATIM_URL", help="The server, a base URL with its path, or unix:PATH.")
    ] = DEFAULT_URL,
    api_key: Annotated[
        str,
        typer.Option(
            "--key", envvar="VERBATIM_API_KEY", help="Sent as the bearer token.", show_default=False
        ),
    ] = "none",
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
    model: Annotated[str, typer.Option(metavar="ID", help="Ask this model instead.")] = "",
) -> None:
    """Send a request of the journal again, and compare the reply with what was kept.

    It needs `journal: {prompts: true}`, and `texts: true` to compare texts. What the request left to defaults
    is sent as it was then, with the seed that was drawn. Exit code 0 when all is the same, 1 when something
    differs or the server answers with an error.
    """
    entry = found(request_id, where, config)
    body = body_of(entry) | ({"model": model} if model else {})
    try:
        endpoint = Endpoint(url, api_key, Trust(cert, cert_key, ca))
        with endpoint.open("POST", "/completions", body) as response:
            reply = endpoint.read_json(response)
    except ClientError as error:
        print(f"verbatim: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    lines = compare(entry, reply)
    for _, line in lines:
        print(line)
    if not all(same for same, _ in lines):
        raise typer.Exit(1)


def found(request_id: str, where: Path | None, config: Path | None) -> Entry:
    """The only record of that id; the last one, where a client has sent the id several
    times. Raises ConfigurationError."""
    last: dict[str, Entry] = {}
    with records(where, config, Filter(id=request_id)) as entries:
        for entry in entries:
            last[entry.id] = entry
    if not last:
        raise ConfigurationError(f"the journal has no request whose id begins with {request_id}.")
    if len(last) > 1 and request_id not in last:
        some = ", ".join(list(last)[:5])
        raise ConfigurationError(f"{len(last)} requests have ids that begin with {request_id}: {some}, …")
    return last.get(request_id) or last.popitem()[1]


def body_of(entry: Entry) -> dict[str, Any]:
    """What to send. Raises ConfigurationError where that is not known."""
    if entry.request is None:
        raise ConfigurationError(
            f"the prompt of request {entry.id} was not kept, so it cannot be sent again;"
            " `journal: {prompts: true}` in models.yaml keeps those of the requests that come then."
        )
    if changed := [name for name in entry.redacted if name not in ("text", "user")]:
        raise ConfigurationError(
            f"request {entry.id} was redacted ({', '.join(changed)}), so what was asked cannot be sent again."
        )
    if not entry.params:
        raise ConfigurationError(
            f"request {entry.id} was refused ({entry.status} {entry.reason}); there is no reply."
        )
    body = entry.params | entry.request
    return {name: value for name, value in body.items() if name not in OF_STREAMS}


def compare(entry: Entry, reply: dict[str, Any]) -> list[tuple[bool, str]]:
    """Whether it is the same, and in words: each choice, then the tokens."""
    kept = {one.choice: one for one in entry.candidates if one.choice is not None}
    lines = [
        _compare(kept[choice["index"]], choice, "text" in entry.redacted)
        if choice["index"] in kept
        else (False, f"choice {choice['index']}: was not returned then")
        for choice in reply["choices"]
    ]
    usage = reply["usage"]
    then = (entry.prompt_tokens, entry.completion_tokens)
    now = (usage["prompt_tokens"], usage["completion_tokens"])
    words = f"tokens: {now[0]} + {now[1]}"
    lines.append((then == now, words + (", the same" if then == now else f"; then {then[0]} + {then[1]}")))
    return lines


def _compare(kept: Candidate, choice: dict[str, Any], is_redacted: bool) -> tuple[bool, str]:
    name, text, finish = f"choice {kept.choice}", choice["text"], choice["finish_reason"]
    if finish != kept.finish:
        return False, f"{name}: ends with {finish}; then {kept.finish or 'it was cut off'}"
    if kept.text is None or is_redacted:
        why = "redacted" if is_redacted else "not kept"
        return True, f"{name}: ends as then, with {finish}; its text was {why}, and is not compared"
    if text == kept.text:
        return True, f"{name}: the same text, {len(text)} characters, {finish}"
    length = min(len(text), len(kept.text))
    at = next((k for k in range(length) if text[k] != kept.text[k]), length)
    shown, before = text[at : at + SHOWN_CHARS], kept.text[at : at + SHOWN_CHARS]
    return False, f"{name}: differs from character {at} on: {shown!r}; then {before!r}"
