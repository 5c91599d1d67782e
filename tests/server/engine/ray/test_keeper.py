"""The keeper, with what it asks of Ray answered here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import server.engine.ray.keeper as keeper_module
from server.config.settings import Settings
from server.engine.ray.keeper import GONE_S, Keeper
from server.engine.ray.messages import Report, engine_name
from server.engine.ray.site import site_of


class Actor:
    """An engine's. told: the names of the methods that were called, with their arguments."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self.told.append((name, *args)))


async def test_engines_hear_who_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the keeper has been there for so long that it has heard all: after a restart it knows nobody, and
    those that were lost meanwhile would keep their places."""
    actor = Actor()
    util = SimpleNamespace(list_named_actors=lambda: [engine_name(0, 0)])
    monkeypatch.setattr(keeper_module, "ray", SimpleNamespace(util=util, get_actor=lambda *_: actor))
    settings = Settings.model_validate({"models": [{"id": "m", "path": tmp_path}]})
    keeper = Keeper(site_of(settings, [64]).model_dump_json(), "nowhere")
    keeper._task.cancel()
    await keeper.hear(Report(front_end="a").model_dump_json())
    await keeper._find()
    assert actor.told == []
    keeper._began_at -= GONE_S
    keeper._ray_since -= GONE_S
    await keeper._find()
    assert actor.told == [("know", ["a"])]
