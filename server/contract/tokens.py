"""The bodies of …/tokenize and …/detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.contract.request import BOOLEAN, STRING, Rule, Shape, TokenId


class TokenizeRequest(Shape):
    """The body of POST /v3/openai/tokenize."""

    model: Annotated[str, STRING] = Field(examples=["smollm2-135m-instruct"])
    prompt: Annotated[str, STRING] = Field(examples=["The capital of France is"])
    add_special_tokens: Annotated[bool | None, BOOLEAN] = Field(None, description="as in a completion")
    parse_special: Annotated[bool | None, BOOLEAN] = Field(None, description="as in a completion")
    return_token_strs: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default false; the tokens as the vocabulary writes them"
    )
    return_token_offsets: Annotated[bool | None, BOOLEAN] = Field(
        None, description="default false; where in the prompt's characters each token begins and ends"
    )


class DetokenizeRequest(Shape):
    """The body of POST /v3/openai/detokenize."""

    model: Annotated[str, STRING] = Field(examples=["smollm2-135m-instruct"])
    tokens: Annotated[Annotated[list[TokenId], Field(fail_fast=True)], Rule("an array of token ids")] = Field(
        examples=[[504, 3575, 282, 4649, 314]]
    )
