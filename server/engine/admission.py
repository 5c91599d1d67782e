"""Decides whether a request is accepted now, or refused with a time to come back."""

from __future__ import annotations

import math

from server.engine.base import NOBODY, Requester
from server.engine.replicas import Replicas
from server.errors import ServiceUnavailable


def check_room(model: Replicas, num_jobs: int, requester: Requester = NOBODY, timeout_s: float = 0.0) -> None:
    """Raise ServiceUnavailable unless this many more jobs can be accepted now, and the first of them can
    start in time. timeout_s: the request's own; 0: none."""
    model.residence.check(model.name)
    if not model.takes_jobs:
        status = model.status
        why = f" ({status.detail})" if status.detail else ""
        raise ServiceUnavailable(f"model {model.name} is not ready: {status.phase}{why}", retry_after_s=10)
    if model.pending and model.pending + num_jobs > model.max_pending:
        too_many = model.pending + num_jobs - model.max_pending
        raise ServiceUnavailable(
            f"model {model.name} has {model.pending} candidates to work on, of at most {model.max_pending}",
            retry_after_s=max(1, math.ceil(model.work.turns.clear_s(too_many))),
        )
    wait_s = model.work.turns.wait_s(requester)
    for limit_s, name in ((model.max_wait_s, "max_wait_s"), (timeout_s, "request_timeout_s")):
        if 0 < limit_s < wait_s:
            raise ServiceUnavailable(
                f"model {model.name} has so much to do that this request would wait for {wait_s:.0f} s, but"
                f" {name} is {limit_s:g}",
                retry_after_s=math.ceil(wait_s - limit_s),
            )
