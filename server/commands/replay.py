"""`verbatim journal replay`: sends a recorded request again and compares the reply with the record."""

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

# Fields that matter for a stream only. The replay asks for a reply in one piece.
OF_STREAMS = ("stream", "stream_options", "stream_interval")
SHOWN_CHARS = 40  # characters of a differing text that are printed


def replay(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="The request's id, or its first characters.")
    ],
    where: Where = None,
    config: Config = None,
    url: Annotated[
        str, typer.Option(envvar="VERBATIM_URL", help="The server, a base URL with its path, or unix:PATH.")
    ] = DEFAULT_URL,
    api_key: Annotated[
        str,
        typer.Option(
            "--key", envvar="VERBATIM_API_KEY", help="API key, sent as the bearer token.", show_default=False
        ),
    ] = "none",
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
    model: Annotated[str, typer.Option(metavar="ID", help="Send it to this model instead.")] = "",
) -> None:
    """Send a request of the journal again, and compare the reply with the recorded one.

    It needs `journal: {prompts: true}`, and `texts: true` to compare texts. Fields that the request left out
    are sent with the values that they had then, the drawn seed too. Exit code 0: all is the same. 1:
    something differs, or the server answers with an error."""
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
    """The record whose id begins so; the last one, if a client sent the same id several times.

    Raises ConfigurationError if there is none, or if several ids begin so.
    """
    last: dict[str, Entry] = {}
    with records(where, config, Filter(id=request_id)) as entries:
        for entry in entries:
            last[entry.id] = entry
    if not last:
        raise ConfigurationError(
            f"the journal has no request whose id begins with {request_id}; check --from."
        )
    if len(last) > 1 and request_id not in last:
        some = ", ".join(list(last)[:5])
        raise ConfigurationError(
            f"{len(last)} requests have ids that begin with {request_id}; give more of the id: {some}, …"
        )
    return last.get(request_id) or last.popitem()[1]


def body_of(entry: Entry) -> dict[str, Any]:
    """The request body to send. Raises ConfigurationError if the record lacks what was asked."""
    if entry.request is None:
        raise ConfigurationError(
            f"request {entry.id} cannot be sent again: the journal did not record its prompt. Set"
            " `journal: {prompts: true}` in models.yaml to record prompts from now on."
        )
    if changed := [name for name in entry.redacted if name not in ("text", "user")]:
        raise ConfigurationError(
            f"request {entry.id} cannot be sent again: its record was redacted ({', '.join(changed)})."
        )
    if not entry.params:
        raise ConfigurationError(
            f"request {entry.id} cannot be compared: it was refused ({entry.status} {entry.reason}), without"
            " a reply."
        )
    body = entry.params | entry.request
    return {name: value for name, value in body.items() if name not in OF_STREAMS}


def compare(entry: Entry, reply: dict[str, Any]) -> list[tuple[bool, str]]:
    """A line for each choice, then one for the token counts: (is it the same, the line)."""
    kept = {one.choice: one for one in entry.candidates if one.choice is not None}
    lines = [
        _compare(kept[choice["index"]], choice, "text" in entry.redacted)
        if choice["index"] in kept
        else (False, f"choice {choice['index']}: was not in the recorded reply")
        for choice in reply["choices"]
    ]
    usage = reply["usage"]
    then = (entry.prompt_tokens, entry.completion_tokens)
    now = (usage["prompt_tokens"], usage["completion_tokens"])
    words = f"tokens: {now[0]} + {now[1]}"
    lines.append(
        (then == now, words + (", the same" if then == now else f"; recorded: {then[0]} + {then[1]}"))
    )
    return lines


def _compare(kept: Candidate, choice: dict[str, Any], is_redacted: bool) -> tuple[bool, str]:
    name, text, finish = f"choice {kept.choice}", choice["text"], choice["finish_reason"]
    if finish != kept.finish:
        return False, f"{name}: ends with {finish}; recorded: {kept.finish or 'it was cut off'}"
    if kept.text is None or is_redacted:
        why = "redacted" if is_redacted else "not kept"
        return True, f"{name}: ends with {finish}, as recorded; its text was {why}, so it is not compared"
    if text == kept.text:
        return True, f"{name}: the same text, {len(text)} characters, {finish}"
    length = min(len(text), len(kept.text))
    at = next((k for k in range(length) if text[k] != kept.text[k]), length)
    shown, before = text[at : at + SHOWN_CHARS], kept.text[at : at + SHOWN_CHARS]
    return False, f"{name}: differs from character {at} on: {shown!r}; recorded: {before!r}"
