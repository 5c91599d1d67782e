"""Counters of journal records."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class JournalMetrics:
    """The counters of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = Counter(
            "verbatim_journal_records", "Records written to the journal", registry=registry
        )
        self._dropped = Counter(
            "verbatim_journal_dropped",
            "Records that the journal lacks, because its disk was full or slow and the buffer in memory was"
            " full",
            registry=registry,
        )
        self.num_dropped = 0  # by this process

    def drop(self, count: int = 1) -> None:
        self.num_dropped += count
        self._dropped.inc(count)
