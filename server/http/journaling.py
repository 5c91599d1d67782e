"""Collects what the journal records about a completion request, and opens the journal of this process."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.config.sections import Journal as JournalSettings
from server.contract.params import StreamParams
from server.contract.request import CompletionRequest
from server.errors import ConfigurationError
from server.generation.candidates import Generation
from server.generation.outputs import Delta
from server.journal.counts import JournalMetrics
from server.journal.entry import Entry
from server.journal.files import Files
from server.journal.scrubber import Scrubber
from server.journal.writer import Writer

MIB = 1 << 20


@dataclass(slots=True)
class Notes:
    """What is known of a running request. texts, token_ids: of its choices so far, if they are recorded."""

    settings: JournalSettings
    wanted: CompletionRequest
    base: str = ""
    generation: Generation | None = None
    how: StreamParams | None = None
    texts: dict[int, list[str]] = field(default_factory=dict)
    token_ids: dict[int, list[int]] = field(default_factory=dict)

    def begin(self, generation: Generation, how: StreamParams, parent: str) -> None:
        """Its candidates are about to begin. parent: the model, if the request asked for an adapter."""
        self.generation, self.how, self.base = generation, how, parent
        if generation.trails is None:
            generation.trails = []
        if self.settings.texts:
            generation.also = self._take

    def _take(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self.texts.setdefault(delta.index, []).append(delta.text)
            if delta.token_ids is not None and not self.settings.redact:
                self.token_ids.setdefault(delta.index, []).extend(delta.token_ids)


def files_of(settings: JournalSettings) -> Files:
    """The journal's files. Raises ConfigurationError if they cannot be written."""
    files = Files(settings.path, settings.max_file_mib * MIB, settings.max_files)
    try:
        files.open()
    except OSError as error:
        why = error.strerror or error
        raise ConfigurationError(f"journal.path: cannot write in {settings.path}: {why}.") from None
    return files


class Journal:
    """The journal of this process. Raises ConfigurationError if its file cannot be opened."""

    def __init__(self, settings: JournalSettings, metrics: JournalMetrics) -> None:
        self.settings = settings
        files = files_of(settings)
        if settings.redact:
            scrubber = Scrubber(settings.redact)
            self._writer = Writer(files, metrics, scrubber, scrubber.close)
        else:
            self._writer = Writer(files, metrics)

    def follow(self, wanted: CompletionRequest) -> Notes:
        return Notes(self.settings, wanted)

    def add(self, entry: Entry, num_chars: int) -> None:
        """Add a record, without waiting for the disk. num_chars: characters of its prompt and texts."""
        self._writer.add(entry, num_chars)

    def close(self) -> None:
        """Write the waiting records. Takes at most some seconds if the disk is full or slow."""
        self._writer.close()
