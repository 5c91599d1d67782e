"""Replaces the running engines of a model by others, which continue its jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from functools import partial

from server.engine.base import Engine
from server.engine.replicas import Replicas
from server.errors import Failure


async def hand_over(
    replicas: Replicas,
    make: Callable[[int], Engine],
    engine: Engine | None = None,
    numbers: Collection[int] | None = None,
) -> None:
    """Let other engines continue the jobs, one replica after the other. Returns when the last one does.

    make: as Replicas'. engine: one that has started, for the first replica; without it, each engine is made
    when the one before it has ended. numbers: of the replicas; None: all. Replicas that have failed for good
    are tried again. Raises the failure of an engine; then all former engines continue. If the model is not
    loaded, only its next engines are of the new kind.
    """
    if replicas.residence.is_out:
        replicas.make = make
        await replicas.sleepers.end(numbers)  # they are of the former kind
        replicas.tell_out()
        return
    ones = replicas.supervisors
    ended = [number for number, one in ones.items() if one.has_ended]
    if len(ended) == len(ones):
        ended = []  # there are no running engines to replace
    done: list[int] = []
    try:
        for number in sorted({*(ones if numbers is None else numbers)} - {*ended}):
            await ones[number].hand_over(partial(make, number), engine)
            engine = None
            done.append(number)
    except Failure:
        for number in done:
            with contextlib.suppress(Failure):  # it has logged the failure, and continues as it is
                await ones[number].hand_over(partial(replicas.make, number))
        raise
    replicas.make = make
    for number in ended:
        await replicas.remove(number)
        replicas.add(number)
