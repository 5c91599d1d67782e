"""What came of each client in each scenario, kept in a file, and docs/clients.md, which is made from it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts import clients as page
from scripts import docs
from tests.clients.matrix import CLIENTS, Client
from tests.clients.scenarios import ALL
from tests.clients.witness import Witness

ROOT = Path(__file__).parents[2]
FILE, PAGE = ROOT / page.FILE, ROOT / docs.CLIENTS_PAGE
UNSAID = ("message", "pieces")  # other in each run


@dataclass(frozen=True, slots=True)
class Seen:
    """By the caller: text, pieces of a stream, when the first came, the end, error, status. By the witness:
    tries, how long the client waited between them, connections, and after how many seconds it had left."""

    text: str
    pieces: int
    first_s: float | None
    seconds: float
    error: str | None
    status: int | None
    message: str | None
    tries: int
    waits_s: list[float]
    connections: int
    left_s: float | None

    @classmethod
    def of(cls, told: dict[str, Any], witness: Witness) -> Seen:
        posts = witness.posts()
        left = [post.left - post.came for post in posts if post.left is not None]
        waits = [round(wait, 2) for wait in witness.waits_s()]
        return cls(
            **told | {name: told[name] and round(told[name], 2) for name in ("first_s", "seconds")},
            tries=len(posts),
            waits_s=waits,
            connections=len({post.connection for post in posts}),
            left_s=round(left[-1], 2) if left else None,
        )


@dataclass
class Findings:
    """Of this run; those of another one stay for the clients that this one has not met."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, client: Client, scenario: str, seen: Seen, broken: Sequence[str] = ()) -> None:
        """broken: rules of the twin's verdict."""
        row = self.found.setdefault(client.name, {"title": client.title, "scenarios": {}})
        said = {name: one for name, one in asdict(seen).items() if name not in UNSAID}
        row["scenarios"][scenario] = said | {"broken": list(broken)}
        row |= {"version": client.version(), "date": today(), "lacks": dict(client.lacks)}

    def note(self, client: Client, words: str) -> None:
        """Of one that is not in these scenarios."""
        said = {"title": client.title, "version": client.version(), "date": today(), "words": words}
        self.notes[client.name] = said

    def write(self) -> None:
        older_file = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
        kept, notes = older_file.get("clients", {}), older_file.get("notes", {}) | self.notes
        for name, row in self.found.items():
            older = kept.get(name, {}).get("scenarios", {})
            kept[name] = row | {"scenarios": older | row["scenarios"]}
        clients = {client.name: kept[client.name] for client in CLIENTS if client.name in kept}
        titles = {scenario.name: scenario.title for scenario in ALL}
        all_of_it = {"scenarios": titles, "clients": clients, "notes": notes}
        text = json.dumps(all_of_it, indent=1, ensure_ascii=False)
        FILE.write_text(f"{text}\n", "utf-8")
        PAGE.write_text(docs.render(PAGE.read_text("utf-8"), page.tables), "utf-8")


def today() -> str:
    return time.strftime("%Y-%m-%d")
