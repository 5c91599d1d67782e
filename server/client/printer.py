"""Prints a reply on a terminal, as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


class Printer:
    """Prints choices: the first as its text comes, then the others, then logprobs and usage."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self._out = out
        self._notes = Console(file=notes, highlight=False, markup=False)
        self._texts: dict[int, str] = {}
        self._finish: dict[int, str | None] = {}
        self._rows: list[tuple[str, ...]] = []
        self._usage: dict[str, Any] | None = None
        self._candidates: list[dict[str, Any]] = []

    def add(self, event: dict[str, Any]) -> None:
        """Add one chunk, or a whole reply: they do not differ here."""
        self._usage = event.get("usage") or self._usage
        self._candidates = event.get("candidates") or self._candidates
        for choice in event["choices"]:
            index, text = choice.get("index", 0), choice.get("text") or ""
            if index == 0:
                self._out.write(text)
                self._out.flush()
            self._texts[index] = self._texts.get(index, "") + text
            self._finish[index] = choice.get("finish_reason") or self._finish.get(index)
            self._rows += _rows(index, choice.get("logprobs"))

    def finish(self) -> None:
        self._out.write("\n")
        for index in sorted(self._texts):
            if index:
                self._out.write(f"--- choice {index}\n{self._texts[index]}\n")
        self._out.flush()
        if self._rows:
            table = Table("choice", "token", "logprob", "most likely", box=None)
            for row in sorted(self._rows, key=lambda row: int(row[0])):
                table.add_row(*row)
            self._notes.print(table)
        if self._candidates:
            self._notes.print(_table(self._candidates))
        reasons = ", ".join(str(self._finish[index]) for index in sorted(self._finish))
        usage = self._usage
        count = f"; {usage['prompt_tokens']} + {usage['completion_tokens']} tokens" if usage else ""
        self._notes.print(f"[{reasons}{count}]")


def _rows(index: int, logprobs: dict[str, Any] | None) -> Iterator[tuple[str, ...]]:
    if not logprobs:
        return
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True):
        likely = "  ".join(f"{key!r} {number:.3f}" for key, number in (top or {}).items())
        yield str(index), repr(token), "" if value is None else f"{value:.4f}", likely


def _table(candidates: list[dict[str, Any]]) -> Table:
    """What became of each candidate of best_of."""
    table = Table("prompt", "candidate", "mean logprob", "tokens", "became", box=None)
    for one in candidates:
        became = "not returned" if one["choice"] is None else f"choice {one['choice']}"
        if one["given_up_after"] is not None:
            became = f"given up after {one['given_up_after']} tokens"
        mean = "" if one["mean_logprob"] is None else f"{one['mean_logprob']:.4f}"
        table.add_row(
            str(one["prompt_index"]), str(one["number"]), mean, str(one["completion_tokens"]), became
        )
    return table
