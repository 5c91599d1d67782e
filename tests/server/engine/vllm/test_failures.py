"""Why an engine has failed, in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

from server.engine.vllm.failures import MAX_CHARS, NOTES, Why, note_failures, why

ELSEWHERE = RuntimeError("WorkerProc initialization failed. See stack trace for root cause.")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process notes what vLLM logs, from now on until the end of the test."""
    monkeypatch.setenv(NOTES, str(tmp_path / "failures"))
    logger = logging.getLogger("vllm")
    before = list(logger.handlers)
    note_failures()
    yield tmp_path / "failures"
    logger.handlers = before


def failed(error: Exception, cause: Exception | None = None) -> Exception:
    """The error as it is caught."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


class Model(BaseModel):
    size: int

    @field_validator("size")
    @classmethod
    def _check(cls, size: int) -> int:
        raise ValueError("Model architectures ['T5Model'] are not supported\nfor now")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no\n  such  device"), Why(reason="RuntimeError: no such device")),
        (
            ValueError("head size 7 is not supported"),
            Why(reason="head size 7 is not supported", is_final=True),
        ),
        (TypeError("not a list"), Why(reason="not a list", is_final=True)),
        (NotImplementedError(), Why(reason="NotImplementedError", is_final=True)),
        (
            ModuleNotFoundError("No module named 'lmcache'"),
            Why(reason="No module named 'lmcache'", is_final=True),
        ),
        (Exception("for GPUs alone"), Why(reason="for GPUs alone", is_final=True)),
        (AttributeError("no stream"), Why(reason="AttributeError: no stream")),
        (OSError(98, "Address in use"), Why(reason="OSError: [Errno 98] Address in use")),
        (
            ValueError("Free memory on device (1/80 GiB) is less than desired"),
            Why(reason="ValueError: Free memory on device (1/80 GiB) is less than desired"),
        ),
    ],
)
def test_one_line(error: Exception, told: Why) -> None:
    """A configuration that cannot work is final; what another program has taken for now is not."""
    assert why(failed(error)) == told


def test_the_innermost_cause() -> None:
    """What an error was raised from says more than what it was raised as."""
    error = failed(RuntimeError("Engine core initialization failed"), failed(MemoryError("no pages")))
    assert why(error) == Why(reason="MemoryError: no pages")


def test_pydantics_errors_are_their_messages() -> None:
    """Without the count, the input and the address of a manual."""
    with pytest.raises(ValueError, match="T5Model") as caught:
        Model(size=1)
    told = Why(reason="Model architectures ['T5Model'] are not supported for now", is_final=True)
    assert why(caught.value) == told


def test_a_long_message_is_cut() -> None:
    """vLLM lists every architecture that it knows."""
    assert len(why(ValueError("x" * 10_000)).reason) == MAX_CHARS + 1


def test_another_process_has_noted_it(notes: Path) -> None:
    """The first that failed is the cause of the others."""
    for error in (ValueError("head size 7"), RuntimeError("the other rank has gone")):
        try:
            raise error
        except Exception:
            logging.getLogger("vllm.worker").exception("WorkerProc failed to start.")
    assert len(notes.read_text().splitlines()) == 2
    assert why(ELSEWHERE) == Why(reason="head size 7", is_final=True)


def test_nothing_was_noted(notes: Path) -> None:
    """A process that was killed notes nothing, and what is logged without an error is none."""
    logging.getLogger("vllm.worker").error("a word")
    assert why(ELSEWHERE).reason.startswith("RuntimeError: WorkerProc initialization failed")


def test_what_was_noted_before_does_not_matter(notes: Path) -> None:
    """An error that says itself what it is about is believed."""
    try:
        raise ValueError("survived")
    except ValueError:
        logging.getLogger("vllm.worker").exception("not so bad")
    assert why(KeyError("x")).reason == "KeyError: 'x'"
