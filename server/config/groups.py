"""Checks of the configuration about models that share memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.config.model import ModelSettings
from server.config.sections import MemoryGroup
from server.config.yamlfile import MisplacedError, nearest


def check_groups(groups: Mapping[str, MemoryGroup], models: Sequence[ModelSettings]) -> None:
    """Raise MisplacedError for a group whose models cannot share memory."""
    by_id = {model.id: model for model in models}
    group_of: dict[str, str] = {}
    for name, group in groups.items():
        for number, model in enumerate(group.models):
            place = ("groups", name, "models", number)
            if model not in by_id:
                raise MisplacedError(f'there is no model "{model}"{nearest(model, by_id)}', *place)
            if group_of.setdefault(model, name) != name or model in group.models[:number]:
                raise MisplacedError(f'model "{model}" is in two groups, or twice in {name}', *place)
            first = by_id[group.models[0]]
            if by_id[model].devices != first.devices:
                raise MisplacedError(
                    f'models of a group must have the same devices, and those of "{model}" differ from'
                    f' those of "{first.id}"',
                    *place,
                )
        if all(by_id[model].load == "at_start" for model in group.models):
            raise MisplacedError(
                f"no model of the group {name} can make room for another, because all are loaded at the"
                " start; set load: on_demand for at least one",
                *("groups", name, "models"),
            )
        stated = sum(by_id[one].size_gib or 0 for one in group.models if by_id[one].load == "at_start")
        for number, model in enumerate(group.models):
            size = by_id[model].size_gib or 0
            others = stated if by_id[model].load == "on_demand" else stated - size
            if group.memory_gib is not None and size + others > group.memory_gib:
                beside = f", and the models that are loaded at the start take {others:g}" if others else ""
                raise MisplacedError(
                    f'model "{model}" takes {size:g} GiB{beside}, but the group {name} has only'
                    f" {group.memory_gib:g} GiB (memory_gib)",
                    *("groups", name, "models", number),
                )


def check_workers(models: Sequence[ModelSettings], num_workers: int, cluster: str) -> None:
    """Raise MisplacedError if models are loaded on demand, or sleep, where other processes use
    the engines too."""
    sleepy = [model for model in models if model.sleep_level]
    if sleepy and (num_workers > 1 or cluster):
        raise MisplacedError(
            f'model "{sleepy[0].id}" has a sleep_level, which works only with one process that sees all'
            " requests; set workers: 1 and no cluster, or remove sleep_level",
            *("models", models.index(sleepy[0]), "sleep_level"),
        )
    late = [model for model in models if model.load == "on_demand"]
    if late and num_workers > 1:
        raise MisplacedError(
            f'model "{late[0].id}" is loaded on demand, which works only with one process that sees all'
            " requests; set workers: 1 or load: at_start",
            "workers",
        )
    if late and cluster:
        raise MisplacedError(
            f'model "{late[0].id}" is loaded on demand, which does not work in a cluster: a front end does'
            " not know whether others need the model; set load: at_start",
            *("models", models.index(late[0]), "load"),
        )
