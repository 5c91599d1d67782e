"""`verbatim complete`: one request to a running server, with an option for each field of the contract.

Text goes to stdout and everything else to stderr, so that the command can be piped. Nothing here is shared
with the server: it is a client like any other, and works with the hosted endpoint as well.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Annotated, Any

import typer

from server.client.endpoint import Endpoint, events
from server.client.failure import ClientError
from server.client.printer import Printer
from server.client.trust import CA, Cert, CertKey, Trust

Text = typer.Option
DEFAULT_URL = "http://127.0.0.1:8000"


def complete(
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; `-` reads it from standard input.")
    ] = None,
    prompt_json: Annotated[
        str | None,
        Text(help="Prompt as JSON instead: such as '[504, 3575]' or '[\"a\", \"b\"]'."),
    ] = None,
    url: Annotated[
        str, Text(envvar="VERBATIM_URL", help="The server, a base URL with its path, or unix:PATH.")
    ] = DEFAULT_URL,
    api_key: Annotated[
        str, Text(envvar="VERBATIM_API_KEY", help="API key, sent as the bearer token.", show_default=False)
    ] = "none",
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
    model: Annotated[
        str | None, Text(envvar="VERBATIM_MODEL", help="Default: the server's first model.")
    ] = None,
    max_tokens: Annotated[int | None, Text(help="Tokens to generate.")] = None,
    n: Annotated[int | None, Text("--n", help="Choices to return.")] = None,
    best_of: Annotated[int | None, Text(help="Candidates to generate; the n best are returned.")] = None,
    seed: Annotated[int | None, Text(help="The same seed gives the same text.")] = None,
    temperature: Annotated[float | None, Text(help="0 to 2; 0 is greedy.")] = None,
    top_p: Annotated[float | None, Text(help="Above 0, at most 1.")] = None,
    top_k: Annotated[int | None, Text(help="1 to 128; 0 is off.")] = None,
    min_p: Annotated[float | None, Text(help="0 to 1.")] = None,
    frequency_penalty: Annotated[float | None, Text(help="-2 to 2.")] = None,
    presence_penalty: Annotated[float | None, Text(help="-2 to 2.")] = None,
    repetition_penalty: Annotated[float | None, Text(help="Above 0, at most 2.")] = None,
    stop: Annotated[list[str] | None, Text(help="A stop sequence; may be repeated.")] = None,
    logit_bias: Annotated[str | None, Text(metavar="JSON", help="Such as '{\"50256\": -100}'.")] = None,
    allowed_token_id: Annotated[
        list[int] | None, Text(help="Generate only such tokens; may be repeated.")
    ] = None,
    bad_word: Annotated[list[str] | None, Text(help="Never generate this word; may be repeated.")] = None,
    response_format: Annotated[
        str | None, Text(metavar="JSON", help='Such as \'{"type": "json_object"}\'.')
    ] = None,
    structured_outputs: Annotated[
        str | None, Text(metavar="JSON", help='Such as \'{"choice": ["yes", "no"]}\'.')
    ] = None,
    logprobs: Annotated[int | None, Text(help="0 to 5; printed as a table on standard error.")] = None,
    logprob_token_id: Annotated[
        list[int] | None, Text(help="Return this token's log-probability too; may be repeated.")
    ] = None,
    echo: Annotated[bool | None, Text(help="Return the prompt before the completion.")] = None,
    suffix: Annotated[str | None, Text(help="Text that follows the completion.")] = None,
    user: Annotated[str | None, Text(help="Your end user, for the server's request log.")] = None,
    priority: Annotated[int | None, Text(help="On a busy server, lower numbers run first.")] = None,
    ignore_eos: Annotated[bool | None, Text(help="Do not stop at the end-of-text token.")] = None,
    min_tokens: Annotated[int | None, Text(help="Generate at least this many tokens.")] = None,
    stop_token_id: Annotated[list[int] | None, Text(help="Stop at this token; may be repeated.")] = None,
    skip_special_tokens: Annotated[bool | None, Text(help="Leave special tokens out of the text.")] = None,
    include_stop_str_in_output: Annotated[
        bool | None, Text(help="Keep the stop sequence in the text.")
    ] = None,
    truncate_prompt_tokens: Annotated[int | None, Text(help="Cut the prompt to this many tokens.")] = None,
    truncation_side: Annotated[str | None, Text(help="Side that is cut off: left or right.")] = None,
    add_special_tokens: Annotated[bool | None, Text(help="Add the model's BOS to the prompt.")] = None,
    parse_special: Annotated[bool | None, Text(help="Read special tokens in the prompt's text.")] = None,
    spaces_between_special_tokens: Annotated[
        bool | None, Text(help="Put spaces between special tokens in the text.")
    ] = None,
    return_token_ids: Annotated[
        bool | None, Text(help="Return the token ids of prompt and completion too.")
    ] = None,
    return_candidates: Annotated[
        bool | None, Text(help="With best_of: also tell of the candidates that are not returned.")
    ] = None,
    stream_interval: Annotated[int | None, Text(help="Tokens in each chunk of a stream.")] = None,
    cache_salt: Annotated[
        str | None, Text(help="Share the prefix cache only with requests that have this salt.")
    ] = None,
    stream: Annotated[
        bool | None, Text(help="Print text as it comes. Default, unless --json or best_of above n.")
    ] = None,
    stream_options: Annotated[
        str | None, Text(metavar="JSON", help="Such as '{\"include_usage\": true}'.")
    ] = None,
    raw: Annotated[bool, Text("--json", help="Print the server's JSON unchanged.")] = False,
) -> None:
    """Send one request to a running server and print the completion.

    Exit code 1: the server answered with an error, or did not answer.
    """
    flags = dict(locals())  # every parameter by name, before anything else is defined
    try:
        body = request_body(flags)
        send(Endpoint(url, api_key, Trust(cert, cert_key, ca)), body, raw)
    except ClientError as error:
        print(f"verbatim: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


# Options that are not sent as a field of their name.
NO_FIELD = {"prompt", "prompt_json", "url", "api_key", "cert", "cert_key", "ca", "raw", "stream"}
REPEATED = {
    "stop_token_id": "stop_token_ids",
    "allowed_token_id": "allowed_token_ids",
    "bad_word": "bad_words",
    "logprob_token_id": "logprob_token_ids",
}
JSON_FIELDS = {"logit_bias", "stream_options", "response_format", "structured_outputs"}


def request_body(flags: dict[str, Any]) -> dict[str, Any]:
    """The request body that the options describe. Fields that were not given are left out."""
    body: dict[str, Any] = {"model": flags["model"], "prompt": _prompt(flags["prompt"], flags["prompt_json"])}
    for name, value in flags.items():
        if name not in NO_FIELD and value is not None and value != []:
            body[REPEATED.get(name, name)] = _json(name, value) if name in JSON_FIELDS else value
    ranked = (flags["best_of"] or 1) > (flags["n"] or 1)
    stream = flags["stream"]
    body["stream"] = not (flags["raw"] or ranked) if stream is None else stream
    return body


def _prompt(text: str | None, as_json: str | None) -> Any:
    if (text is None) == (as_json is None):
        raise ClientError("give either a prompt or --prompt-json")
    if as_json is not None:
        return _json("prompt_json", as_json)
    return sys.stdin.read() if text == "-" else text


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ClientError(f"--{name.replace('_', '-')} is not valid JSON: {error}") from None


def send(endpoint: Endpoint, body: dict[str, Any], raw: bool) -> None:
    body["model"] = body["model"] or endpoint.first_model()
    with endpoint.open("POST", "/completions", body) as response:
        if raw:
            _copy(response)
        elif body["stream"]:
            printer = Printer(sys.stdout, sys.stderr)
            for event in events(response):
                printer.add(event)
            printer.finish()
        else:
            printer = Printer(sys.stdout, sys.stderr)
            printer.add(endpoint.read_json(response))
            printer.finish()


def _copy(response: http.client.HTTPResponse) -> None:
    """Print lines as they come; a reply that is not streamed comes all at once."""
    line = b""
    for line in iter(response.readline, b""):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    if not line.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
