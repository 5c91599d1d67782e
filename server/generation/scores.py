"""A prompt's log-probabilities, shared by its candidates."""

from __future__ import annotations

from functools import partial

from server.engine.base import EngineOutput, Sink, TopLogprobs
from server.errors import RequestFailure


class PromptScores:
    """A prompt's log-probabilities. Only the first of its candidates asks for them, because all have the
    same; outputs of the others that come before them are held."""

    def __init__(self) -> None:
        self._logprobs: TopLogprobs | None = None
        self._held: list[tuple[Sink, EngineOutput]] = []

    def before(self, sink: Sink) -> Sink:
        """A sink before a candidate's, which gets each output with the prompt's log-probabilities."""
        return partial(self._take, sink)

    def _take(self, sink: Sink, output: EngineOutput | RequestFailure) -> None:
        if isinstance(output, RequestFailure):
            sink(output)
            return
        self._held.append((sink, output))
        self._logprobs = self._logprobs or output.prompt_logprobs
        if self._logprobs is not None:
            held, self._held = self._held, []
            for earlier, its_output in held:
                its_output.prompt_logprobs = self._logprobs
                earlier(its_output)
