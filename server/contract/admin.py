"""The body of requests that change a running server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.contract.request import STRING, Rule, Shape


class StateRequest(Shape):
    """The body of PUT /v3/openai/models/{id}/state."""

    model: Annotated[str, STRING] = Field("", description="without effect: the path names it")
    state: Annotated[Literal["loaded", "asleep", "unloaded"], Rule('"loaded", "asleep" or "unloaded"')] = (
        Field(examples=["unloaded"])
    )
