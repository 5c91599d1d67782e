"""Why an engine has failed, in one line, whichever of its processes knows it."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

NOTES = "VERBATIM_FAILURES"  # names the file where the processes of an engine note their failures
ELSEWHERE = "root cause"  # in vLLM's message that another process has failed
MAX_CHARS = 400

# Exceptions for a wrong configuration, or a model that vLLM cannot run; another try would not help.
FINAL = (TypeError, ValueError, NotImplementedError, ImportError)
# vLLM raises these while it makes a configuration, which measures and starts nothing.
CONFIGURING = (*FINAL, RuntimeError, AssertionError, LookupError, AttributeError, OSError)
# But vLLM also raises a ValueError when another program uses the memory at the moment.
PASSING = ("free memory", "available memory", "available kv cache memory", "gpu memory used by other")


class Why(BaseModel):
    """reason: one line. is_final: of a start, another try would not help."""

    reason: str
    is_final: bool = False


def why(error: BaseException) -> Why:
    """The failure of an engine's own process; if that only says that another process has failed, the first
    failure noted by the others."""
    found = _why(error)
    if ELSEWHERE in found.reason.lower() and (file := os.environ.get(NOTES)):
        with contextlib.suppress(OSError, IndexError, ValueError):
            found = Why.model_validate_json(Path(file).read_text("utf-8").splitlines()[0])
    return found


def note_failures() -> None:
    """From now on, note failures that vLLM logs in this process."""
    if file := os.environ.get(NOTES):
        logging.getLogger("vllm").addHandler(_Notes(Path(file)))


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARS else line[:MAX_CHARS] + "…"


class _Notes(logging.Handler):
    def __init__(self, file: Path) -> None:
        super().__init__(logging.ERROR)
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            with contextlib.suppress(OSError), self._file.open("a", encoding="utf-8") as file:
                file.write(_why(record.exc_info[1]).model_dump_json() + "\n")


def _why(error: BaseException) -> Why:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ValidationError):
        text = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
    else:
        text = str(error)
    text = one_line(text)
    # VLLM raises a plain Exception on a CPU for what needs a GPU
    refuses = isinstance(error, FINAL) or type(error) is Exception
    is_final = refuses and not any(word in text.lower() for word in PASSING)
    if not is_final or not text:  # a person has to read a final failure and change something
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Why(reason=text, is_final=is_final)
