"""Types of text in the configuration, with error messages in words: pydantic would show a pattern."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError


def matching(pattern: str, words: str) -> AfterValidator:
    """A validator for text that matches this pattern. words: the expected form, for the error message."""

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
        "an origin as browsers send it, such as https://app.example.com (lower case, no path), or *",
    ),
]
ClusterAddress = Annotated[str, matching(r"(auto|\S+:\d{1,5})?", "auto, HOST:PORT of the head, or empty")]
UNIX = "unix:"  # prefix of a host that is a socket's path
Host = Annotated[
    str,
    matching(rf"(?!{UNIX})\S+|{UNIX}\S{{1,107}}", "an address, a name, or unix:PATH of at most 107 bytes"),
]


def _as_text(mode: object) -> object:
    """YAML reads 0660 as a number, and the digits as written are lost."""
    if isinstance(mode, int):
        raise PydanticCustomError("words", 'it should be octal digits in quotes, "660"')
    return mode


FileMode = Annotated[
    str, BeforeValidator(_as_text), matching(r"0?[0-7]{3}", 'three octal digits in quotes, "660"')
]


def socket_path(host: str) -> Path | None:
    """The path of a Unix socket; None: the host is an address."""
    return Path(host.removeprefix(UNIX)) if host.startswith(UNIX) else None


def is_local(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if socket_path(host) is not None:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
