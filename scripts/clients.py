"""The tables of docs/clients.md, made from the results that `make test-clients` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path("benchmarks/results/clients.json")
MANY = 3  # more requests for one reply are too many
AT_ONCE_S = 2.5  # a program that has cancelled may run on for three seconds
WITHOUT_FAULT = ("whole", "streamed", "engine-whole", "engine-streamed")

VERDICT = "The rules of the simulator's [verdict](verdict.md) that each client broke, and in which scenario."


def tables() -> str:
    found = json.loads(FILE.read_text("utf-8"))
    clients = found["clients"]
    parts = ["## The clients", _clients(clients), "## Without a fault", _whole(clients)]
    for name, title in found["scenarios"].items():
        if name not in WITHOUT_FAULT:
            parts += [f"## {title}", _scenario(name, clients)]
    parts += ["## The verdict", VERDICT, _broken(clients)]
    parts += ["## Other programs", _notes(found["notes"])]
    return "\n\n".join(parts) + "\n"


def _broken(clients: dict[str, Any]) -> str:
    lines = ["| | rules broken (scenario) |", "|---|---|"]
    for name, row in clients.items():
        where: dict[str, list[str]] = {}
        for scenario, seen in row["scenarios"].items():
            for rule in seen.get("broken", ()):
                where.setdefault(rule, []).append(scenario)
        cells = (f"`{rule}` ({', '.join(names)})" for rule, names in where.items())
        lines.append(f"| {name} | {'; '.join(cells) or '—'} |")
    return "\n".join(lines)


def _notes(notes: dict[str, Any]) -> str:
    lines = ["| | | version | run on | result |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {note['title']} | {note['version']} | {note['date']} | {note['words']} |"
        for name, note in notes.items()
    ]
    return "\n".join(lines)


def _clients(clients: dict[str, Any]) -> str:
    lines = ["| | | version | run on |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['title']} | {row['version']} | {row['date']} |" for name, row in clients.items()
    ]
    return "\n".join(lines)


def _whole(clients: dict[str, Any]) -> str:
    titles = ("no stream, simulator", "stream, simulator", "no stream, engine", "stream, engine")
    lines = [f"| | {' | '.join(titles)} |", "|---|---|---|---|---|"]
    for name, row in clients.items():
        cells = [
            "same text" if one in row["scenarios"] else row["lacks"].get(one.removeprefix("engine-"), "—")
            for one in WITHOUT_FAULT
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scenario(name: str, clients: dict[str, Any]) -> str:
    lines = ["| | requests | waits between them, s | the caller gets | after, s |", "|---|---|---|---|---|"]
    for client, row in clients.items():
        if seen := row["scenarios"].get(name):
            waits = ", ".join(f"{wait:.1f}" for wait in seen["waits_s"]) or "—"
            has = _has(name, seen, row["scenarios"]["whole"]["text"])
            tries = f"**{seen['tries']}**" if seen["tries"] > MANY else seen["tries"]
            lines.append(f"| {client} | {tries} | {waits} | {has} | {seen['seconds']:.1f} |")
        else:
            lines.append(f"| {client} | — | — | {row['lacks'].get(name, 'not run')} | — |")
    return "\n".join(lines)


def _has(name: str, seen: dict[str, Any], whole: str) -> str:
    """In words: how much of the text the caller has, which error, and in bold what the user
    would not expect."""
    text = seen["text"]
    if text == whole:
        part = "**the text, in the end**" if name == "stall-stream" else "the text"
    elif whole.startswith(text):
        part = "the beginning of the text" if text else ""
    else:
        part = f"**the beginning {text.count(whole[: len(text) // seen['tries']])} times over**"
    if name == "cancelled":
        left = seen["left_s"] is not None and seen["left_s"] < AT_ONCE_S
        end = "connection closed at once" if left else "**connection still open** 3 s later"
    elif seen["error"]:
        end = f"`{seen['error']}`" + (f" {seen['status']}" if seen["status"] else "")
    else:
        end = "" if text == whole else "**no error**"
    return ", ".join(filter(None, (part, end)))
