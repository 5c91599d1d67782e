"""Writes recordings: a file for each exchange, in the order in which they ended."""

from __future__ import annotations

import json
import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from server.errors import ConfigurationError
from twin.recordings.exchange import Exchange, to_record
from twin.recordings.redaction import digest_of, redacted, repeats_prompt

log = logging.getLogger("verbatim.recordings")

NUMBER = re.compile(r"(\d+)-.*\.json")


class Recorder:
    """redact_prompts: leave prompts out, and skip exchanges whose reply repeats them (echo)."""

    def __init__(self, folder: Path, *, redact_prompts: bool = False) -> None:
        self._folder = folder
        self._redact_prompts = redact_prompts
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot record in {folder}: {error.strerror}.") from None
        found = (NUMBER.fullmatch(file.name) for file in folder.iterdir())
        self._number = max((int(match[1]) for match in found if match), default=0)
        self._thread = ThreadPoolExecutor(max_workers=1)  # a single thread keeps them in order

    def keep(self, exchange: Exchange) -> Future[None]:
        """Write the exchange in a thread, because a large one takes a while. Nobody has to await it: the
        process does not end before it is done."""
        writing = self._thread.submit(self._write, exchange)
        writing.add_done_callback(Future.result)  # so that a bug of ours is logged
        return writing

    def _write(self, exchange: Exchange) -> None:
        """If it cannot be written, it is missing; the client gets its reply all the same."""
        asked, digest = exchange.asked, digest_of(exchange.asked)
        if self._redact_prompts and repeats_prompt(asked):
            log.warning(
                "%s %s is not recorded, because its reply contains the prompt, which --redact-prompts"
                " leaves out",
                asked.method,
                asked.path,
            )
            return
        clean = redacted(exchange, prompts=self._redact_prompts)
        record = to_record(clean, digest, datetime.now(UTC).isoformat(timespec="seconds"))
        self._number += 1
        last = re.sub(r"[^A-Za-z0-9]+", "-", asked.path.rstrip("/").rpartition("/")[2])[:40] or "root"
        file = self._folder / f"{self._number:04d}-{asked.method}-{last}-{digest[:8]}.json"
        unfinished = self._folder / f".{file.name}.part"
        try:
            unfinished.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(file)  # readers of the folder see the whole file or none
        except OSError as error:
            log.error("the recording %s cannot be written: %s", file, error.strerror)
            with suppress(OSError):
                unfinished.unlink()
