"""Other engines for the jobs of a model, in the place of those that run."""

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
    """Have other engines go on with the jobs, one replica after the other. Returns when the last does.

    make: as Replicas'. engine: one that has started, for the first; without, each is made when the one before
    it has ended. numbers: of the replicas; None is all of them. Those that have failed for good are tried
    again. Raises what one fails with: then all go on as before. Of a model that is not loaded, the next
    engines are of that kind.
    """
    if replicas.residence.is_out:
        replicas.make = make
        await replicas.sleepers.end(numbers)  # they are of the kind of before
        replicas.tell_out()
        return
    ones = replicas.supervisors
    ended = [number for number, one in ones.items() if one.has_ended]
    if len(ended) == len(ones):
        ended = []  # there is nobody to go on with
    done: list[int] = []
    try:
        for number in sorted({*(ones if numbers is None else numbers)} - {*ended}):
            await ones[number].hand_over(partial(make, number), engine)
            engine = None
            done.append(number)
    except Failure:
        for number in done:
            with contextlib.suppress(Failure):  # it has said so, and goes on as it is
                await ones[number].hand_over(partial(replicas.make, number))
        raise
    replicas.make = make
    for number in ended:
        await replicas.remove(number)
        replicas.add(number)
