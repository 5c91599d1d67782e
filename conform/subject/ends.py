"""The exceptions by which a run or a rule ends, if the rule does not hold."""

from __future__ import annotations


class ConformError(Exception):
    """The run cannot begin or continue. The message says what to change."""


class Unmet(Exception):  # noqa: N818  # the result of a rule is no error of the program
    """The rule does not hold. The message is what was seen."""


class Skipped(Exception):  # noqa: N818
    """The rule cannot be tried on this server. The message has the reason."""


class OverBudget(Exception):  # noqa: N818
    """A rule wanted more than its stated cost. The request was not sent."""


def require(condition: object, seen: str) -> None:
    """Raise Unmet with what was seen, unless the condition holds."""
    if not condition:
        raise Unmet(seen)


def shown(value: object, most: int = 160) -> str:
    """A value as a message shows it: on one line, cut in the middle."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
