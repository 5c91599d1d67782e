"""The shapes of replies, for /openapi.json. http/sse.py makes the bytes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LogprobsOut(_Out):
    tokens: list[str] = Field(description="a token that is not whole UTF-8 by itself is written bytes:\\xNN…")
    token_logprobs: list[float | None] = Field(
        description="natural logarithms; null for the first token of a prompt"
    )
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="characters of the returned text")


class ChoiceOut(_Out):
    index: int = Field(description="prompt number × n + rank")
    text: str
    logprobs: LogprobsOut | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = Field(None, description="there only with return_token_ids")
    prompt_token_ids: list[int] | None = Field(None, description="there only with return_token_ids")


class CandidateOut(_Out):
    prompt_index: int
    number: int = Field(description="among the candidates of its prompt, from 0")
    mean_logprob: float | None = Field(
        description="of its tokens: what it is ranked by; null where it has none"
    )
    completion_tokens: int
    finish_reason: Literal["stop", "length"] | None = Field(description="null: it was given up")
    given_up_after: int | None = Field(
        description="tokens after which it could not win any more; null: it was not given up"
    )
    choice: int | None = Field(description="index of the choice that it is; null: it is not returned")


class UsageOut(_Out):
    prompt_tokens: int
    completion_tokens: int = Field(description="of every candidate, returned or not")
    total_tokens: int


class Completion(_Out):
    id: str = Field(pattern="^[0-9a-f]{32}$")
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    candidates: list[CandidateOut] | None = Field(
        None, description="there only with return_candidates and best_of above n: of each prompt, all of them"
    )


class Model(_Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    title: str
    description: str
    context_size: int
    input_token_price_per_m: int
    output_token_price_per_m: int
    parent: str | None = Field(None, description="of an adapter alone: the model that it is on")


class ModelDetails(Model):
    vocab_size: int = Field(description="token ids are below it")
    bos_token_id: int | None
    eos_token_ids: list[int] = Field(description="those that end a completion")
    special_tokens: dict[str, int] = Field(description="ids of the special tokens by their names")
    adapters: list[str] = Field(description="ids of its adapters")


class Tokenized(_Out):
    count: int
    max_model_len: int = Field(description="most tokens of prompt and completion")
    tokens: list[int]
    token_strs: list[str] | None = Field(description="null unless asked for")
    token_offsets: list[Annotated[list[int], Field(min_length=2, max_length=2)]] | None = Field(
        None, description="there only if asked for"
    )


class Detokenized(_Out):
    prompt: str


class Changed(_Out):
    message: str = Field(description="what has changed")


class ModelList(_Out):
    object: Literal["list"]
    data: list[Model]


class NestedError(_Out):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(_Out):
    code: int = Field(description="the HTTP status")
    reason: str
    message: str
    metadata: dict[str, str]
    error: NestedError | None = Field(
        None, description="for SDKs that read only this; left out with error_format: flat"
    )
