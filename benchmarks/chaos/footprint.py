"""What a server uses at a moment: memory, open files, processes, files in its temporary folder."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.faults import workers

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Footprint:
    """owner_mib, workers_mib: resident memory of the process that runs the engines, and of the workers. The
    engines' memory is not included, because an engine is new after each death. num_files: open files of
    these. processes: all that the server has started. temporary: files and folders in its TMPDIR."""

    owner_mib: float
    workers_mib: list[float]
    num_files: list[int]
    num_processes: int
    num_temporary: int

    @property
    def front_mib(self) -> float:
        return self.owner_mib + sum(self.workers_mib)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def footprint(server: int, folder: Path) -> Footprint:
    owner = psutil.Process(server)
    answering = [owner, *workers(server)]
    memory, num_files = [], []
    for process in answering:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory.append(process.memory_info().rss / MIB)
            num_files.append(process.num_fds())
    return Footprint(
        owner_mib=memory[0],
        workers_mib=memory[1:],
        num_files=num_files,
        num_processes=len(owner.children(recursive=True)),
        num_temporary=sum(1 for _ in folder.rglob("*")),
    )
