"""Kinds of text in the configuration, refused in words: pydantic would show a pattern."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def matching(pattern: str, words: str) -> AfterValidator:
    """Text of this pattern; what it should be, in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("words", "it should be {words}", {"words": words})
        return text

    return AfterValidator(check)


Name = Annotated[
    str, matching(r"[^\s\x00-\x1f]{1,200}", "1 to 200 characters without spaces or control characters")
]
GroupName = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", "a name of letters, digits and . _ @ -, at most 100 of them"
    ),
]
Sha256 = Annotated[str, matching(r"[0-9a-fA-F]{64}", "a SHA-256, which is 64 hexadecimal digits")]
Origin = Annotated[
    str,
    matching(
        r"\*|[a-z][a-z0-9+.-]*://[^/\sA-Z,]+",
        "an origin as browsers send it, https://app.example.com, lower case and without a path, or *",
    ),
]
ClusterAddress = Annotated[str, matching(r"(auto|\S+:\d{1,5})?", "auto, the head's HOST:PORT, or empty")]
Host = Annotated[str, matching(r"\S+", "an address or a name")]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
