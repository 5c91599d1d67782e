"""The shape of a request.

A field that was left out, or given as null, is None here; params.py resolves what that means. Each field has
its rule in words (`Rule`), so that a 400 names field, value and allowed range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema

from server.errors import InvalidRequest

MAX_SHOWN_CHARS = 100  # characters of a refused value that an error message shows
INT64 = 2**63

# fail_fast: one error is enough. A million wrong items would give a million errors and take seconds.
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Prompt = (
    str
    | Annotated[list[str], Field(min_length=1, fail_fast=True)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A field's rule in words. `kind` is said if the type is wrong, `limits` if only the value is."""

    kind: str
    limits: str = ""

    def __str__(self) -> str:
        return f"{self.kind}, {self.limits}" if self.limits else self.kind

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Adds the rule to /openapi.json, from where the playground reads it."""
        return {**handler(schema), "x-rule": str(self)}


BOOLEAN = Rule("true or false")
STRING = Rule("a string")
BIAS = Rule("a number", "between -100 and 100")


class StreamOptions(BaseModel):
    """Options of a stream. Only allowed with stream: true."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: Annotated[bool | None, BOOLEAN] = Field(
        None, description="true: one more chunk, with empty choices and the usage; false: no usage at all"
    )
    continuous_usage_stats: Annotated[bool | None, BOOLEAN] = Field(
        None, description="with include_usage: the usage so far on every chunk"
    )
    include_obfuscation: Annotated[bool | None, BOOLEAN] = Field(None, description="accepted without effect")


class Shape(BaseModel):
    """A body in which null means "not given" for every optional field."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: Annotated[str, STRING]

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value is not None}


S = TypeVar("S", bound=Shape)


class CompletionRequest(Shape):
    """The body of POST /v3/openai/completions. null means "not given" for every optional field."""

    model: Annotated[str, STRING] = Field(examples=["smollm2-135m-instruct"])
    prompt: Annotated[
        Prompt,
        Rule(
            "a string, an array of strings, an array of token ids or an array of arrays of token ids, "
            "none of the arrays empty"
        ),
    ] = Field(examples=["The capital of France is"])
    max_tokens: Annotated[int | None, Rule("an integer", "0 or more")] = Field(
        None, ge=0, description="default 16, or the model's own"
    )
    stream: Annotated[bool | None, BOOLEAN] = Field(None, description="default false")
    stream_options: Annotated[StreamOptions | None, Rule("an object")] = None
    n: Annotated[int | None, Rule("an integer", "between 1 and 128")] = Field(
        None, ge=1, le=128, description="default 1"
    )
    best_of: Annotated[int | None, Rule("an integer", "between n and 128")] = Field(
        None, ge=1, le=128, description="default n; candidates generated, of which the n best are returned"
    )
    seed: Annotated[int | None, Rule("an integer", "within 64 bits")] = Field(None, ge=-INT64, lt=INT64)
    frequency_penalty: Annotated[float | None, Rule("a number", "between -2 and 2")] = Field(
        None, ge=-2, le=2, description="default 0; over generated tokens"
    )
    presence_penalty: Annotated[float | None, Rule("a number", "between -2 and 2")] = Field(
        None, ge=-2, le=2, description="default 0; over generated tokens"
    )
    repetition_penalty: Annotated[float | None, Rule("a number", "greater than 0 and at most 2")] = Field(
        None, gt=0, le=2, description="default 1; over prompt and generated tokens"
    )
    stop: Annotated[
        str | Annotated[list[str], Field(fail_fast=True)] | None, Rule("a string or an array of strings")
    ] = Field(None, description="up to 4; the returned text includes the stop sequence")
    temperature: Annotated[float | None, Rule("a number", "between 0 and 2")] = Field(
        None, ge=0, le=2, description="default 1; 0 is greedy"
    )
    top_p: Annotated[float | None, Rule("a number", "greater than 0 and at most 1")] = Field(
        None, gt=0, le=1, description="default 1"
    )
    top_k: Annotated[int | None, Rule("an integer", "between 1 and 128, or 0 or -1 for off")] = Field(
        None, ge=-1, le=128, description="default off"
    )
    min_p: Annotated[float | None, Rule("a number", "between 0 and 1")] = Field(
        None, ge=0, le=1, description="default 0; relative to the most likely token, after temperature"
    )
    logit_bias: Annotated[
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(fail_fast=True)] | None,
        Rule("an object from token ids, as decimal strings, to numbers between -100 and 100"),
    ] = Field(None, examples=[{"7042": -100}])
    allowed_token_ids: Annotated[
        Annotated[list[TokenId], Field(min_length=1, fail_fast=True)] | None,
        Rule("an array of token ids, not empty"),
    ] = Field(None, description="no other token is generated; the end of the text neither, unless it is here")
    bad_words: Annotated[Annotated[list[str], Field(fail_fast=True)] | None, Rule("an array of strings")] = (
        Field(None, description="words that are never completed in the generated text")
    )
    response_format: Annotated[dict[str, Any] | None, Rule("an object")] = Field(
        None,
        description='{"type": "json_object"}, or {"type": "json_schema", "json_schema": {"schema": …}}',
        examples=[{"type": "json_object"}],
    )
    structured_outputs: Annotated[dict[str, Any] | None, Rule("an object")] = Field(
        None,
        description="one of json (a schema), regex, choice, grammar, json_object",
        examples=[{"choice": ["yes", "no"]}],
    )
    logprobs: Annotated[int | None, Rule("an integer", "between 0 and 5")] = Field(None, ge=0, le=5)
    logprob_token_ids: Annotated[
        Annotated[list[TokenId], Field(fail_fast=True)] | None, Rule("an array of token ids")
    ] = Field(
        None, description="with logprobs: top_logprobs has these, up to 128, instead of the most likely"
    )
    echo: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default false; the prompt before the completion"
    )
    ignore_eos: Annotated[bool | None, BOOLEAN] = Field(None, description="default false")
    min_tokens: Annotated[int | None, Rule("an integer", "between 0 and max_tokens")] = Field(
        None, ge=0, description="default 0"
    )
    stop_token_ids: Annotated[
        Annotated[list[TokenId], Field(fail_fast=True)] | None, Rule("an array of token ids")
    ] = None
    skip_special_tokens: Annotated[bool | None, BOOLEAN] = Field(None, description="default true")
    include_stop_str_in_output: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default true, or the model's own"
    )
    truncate_prompt_tokens: Annotated[int | None, Rule("an integer", "1 or more, or -1 for what fits")] = (
        Field(None, ge=-1, description="keep only so many tokens of the prompt, the last ones")
    )
    truncation_side: Annotated[Literal["left", "right"] | None, Rule('"left" or "right"')] = Field(
        None, description='default "left"; "right": truncate_prompt_tokens keeps the first ones'
    )
    add_special_tokens: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default true; false: no BOS, say, is put before a prompt of text"
    )
    parse_special: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default true; false: special tokens' names in a prompt are text like any other"
    )
    spaces_between_special_tokens: Annotated[bool | None, BOOLEAN] = Field(
        None, description="either gives the same text: no tokenizer that is served puts any between them"
    )
    return_token_ids: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default false; choices then have token_ids and prompt_token_ids"
    )
    return_candidates: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default false; with best_of above n the reply tells of every candidate"
    )
    stream_interval: Annotated[int | None, Rule("an integer", "1 or more")] = Field(
        None, ge=1, description="tokens of a choice in each chunk of a stream, but the first and the last"
    )
    cache_salt: Annotated[
        str | None, Rule("a string of 1 to 128 characters, none of which is @, /, \\ or NUL")
    ] = Field(
        None,
        min_length=1,
        max_length=128,
        pattern=r"^[^@/\\\x00]*$",
        description="what is cached of a prompt is for requests of the same salt",
    )
    priority: Annotated[int | None, Rule("an integer", "between -1000 and 1000")] = Field(
        None, ge=-1000, le=1000, description="default 0; lower ones come first, within what the key may ask"
    )
    user: Annotated[str | None, STRING] = Field(None, description="in the request log only")
    suffix: Annotated[str | None, STRING] = Field(
        None, description="only for models with a fill-in-the-middle template"
    )


def parse_request(body: bytes) -> CompletionRequest:
    """The completion request in a body of JSON; raises as parse_body."""
    return parse_body(body, CompletionRequest)


def parse_body(body: bytes, shape: type[S]) -> S:
    """A body of JSON as this shape.

    Raises InvalidRequest, which names field, value and rule. The parser refuses JSON numbers that
    are not finite.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(shape, data, first["type"], first["loc"]) from None


def shown(value: Any) -> str:
    """A refused value as the client wrote it, cut to a readable length."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # orjson writes fewer levels of nesting than it reads
        return "…"
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def _refusal(
    shape: type[Shape], data: dict[str, Any], error_type: str, loc: tuple[int | str, ...]
) -> InvalidRequest:
    field = str(loc[0])
    name, value, rule = field, data.get(field), _rule(shape, field)
    if value is None:
        return InvalidRequest(f"{field} is required", field)
    if len(loc) > 1 and field == "stream_options":
        name, value, rule = f"{field}.{loc[1]}", value[loc[1]], _rule(StreamOptions, str(loc[1]))
    elif len(loc) > 1 and field == "logit_bias":
        name, value, rule = f"{field}[{shown(loc[1])}]", value[loc[1]], BIAS
    only_value = error_type.startswith(("greater_than", "less_than"))
    words = rule.limits if only_value and rule.limits else str(rule)
    return InvalidRequest(f"{name} (current value: {shown(value)}) must be {words}", field)


def _rule(model: type[BaseModel], field: str) -> Rule:
    return next(item for item in model.model_fields[field].metadata if isinstance(item, Rule))
