"""Translates our jobs and outputs to and from vLLM's. A new version of vLLM will most likely
change this file."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from sampling.reference import GREEDY
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, FinishReason, Job, TopLogprobs
from server.engine.vllm.wire import CoreAdapter, CoreLogprobs, CoreOutput, CoreParams, CoreRequest
from server.errors import InternalError, ServiceUnavailable

log = logging.getLogger(__name__)

NEUTRAL = GenerationParams()
FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length")  # vLLM's first reasons, by their numbers
ABORTED = 2  # the next reason
ARE_NAN = "the logits are NaN; the model may be damaged, or its dtype may be too small"
CERTAIN = 1e30  # a bias beside which no logit matters
# The fields of our own sampling.
ALWAYS = (
    *("logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("allowed_token_ids", "bad_words", "logprob_token_ids"),
)
WHERE_DRAWN = ("temperature", "min_p", "top_k", "top_p")


def core_request(job: Job, client: int = 0) -> CoreRequest:
    """A job as a request to vLLM's engine. client: the number of the client that gets its outputs."""
    prompt_ids, asked = (job.prompt_ids, _params(job)) if job.max_tokens else _scoring(job)
    now = time.monotonic()  # the same clock in all processes here; the time of day may be set back
    return CoreRequest(
        request_id=job.id,
        prompt_token_ids=prompt_ids,
        mm_features=None,
        sampling_params=asked,
        pooling_params=None,
        arrival_time=now,
        lora_request=_adapter(job),
        cache_salt=job.params.cache_salt,
        client_index=client,
        priority=job.urgency,
    )


def _adapter(job: Job) -> CoreAdapter | None:
    one = job.adapter
    return None if one is None else CoreAdapter(one.name, one.number, str(one.directory))


def _params(job: Job) -> CoreParams:
    params = job.params
    eos = () if params.ignore_eos else job.eos_ids
    return CoreParams(
        max_tokens=job.max_tokens,
        min_tokens=min(params.min_tokens, job.max_tokens),
        # Our code samples (sampling/) and gives the winner the largest logit. vLLM's own parameters stay
        # neutral, so that nothing is applied twice.
        temperature=0.0,
        extra_args=sampling_args(job),
        stop_token_ids=list(dict.fromkeys([*params.stop_token_ids, *eos])),
        ignore_eos=params.ignore_eos,
        logprobs=job.num_logprobs,
        prompt_logprobs=job.num_logprobs if job.prompt_logprobs else None,
        detokenize=False,
        structured_outputs={"grammar": params.grammar} if params.grammar is not None else None,
    )


def _scoring(job: Job) -> tuple[list[int], CoreParams]:
    """The prompt and the parameters of a job that generates nothing.

    vLLM always generates a token, so the prompt is sent without its last token, and that token is the one
    that is generated. So a prompt may fill the whole context.
    """
    *before, last = job.prompt_ids
    return before, CoreParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=job.num_logprobs,
        prompt_logprobs=job.num_logprobs if len(before) > 1 else None,
        detokenize=False,
        extra_args={"logit_bias": {last: CERTAIN}},
    )


def engine_output(job: Job, output: CoreOutput) -> EngineOutput:
    """The output of a step for a job. Raises a RequestFailure if the engine ended it with an error."""
    if output.num_nans_in_logits:
        log.error("request %s: %s (%d of them)", job.request_id, ARE_NAN, output.num_nans_in_logits)
        raise InternalError(job.request_id, ARE_NAN)
    reason = output.finish_reason
    if reason is not None and reason >= len(FINISH_REASONS):
        if output.stop_reason:
            log.error("request %s: %s", job.request_id, output.stop_reason)
            raise ServiceUnavailable(str(output.stop_reason), retry_after_s=30)
        raise ServiceUnavailable("the engine ended the request; try again", retry_after_s=1)
    logprobs = top_logprobs(output.new_logprobs, job)
    prompt_logprobs = top_logprobs(output.new_prompt_logprobs_tensors, job)
    if not job.max_tokens:
        return EngineOutput([], None, _scored(job, prompt_logprobs, logprobs), "length")
    return EngineOutput(
        output.new_token_ids,
        logprobs,
        prompt_logprobs,
        None if reason is None else FINISH_REASONS[reason],
    )


def _scored(job: Job, before: TopLogprobs | None, last: TopLogprobs | None) -> TopLogprobs:
    """The positions of the prompt; vLLM generated the last one."""
    assert last is not None, "asked for"
    if last.token_ids[0] != job.prompt_ids[-1]:  # not even the bias could make it likely
        last.token_ids[0], last.logprobs[0] = job.prompt_ids[-1], -math.inf
    scored = before or TopLogprobs(last.width)
    scored.extend(last)
    return scored


def top_logprobs(found: CoreLogprobs | None, job: Job) -> TopLogprobs | None:
    """A step's log-probabilities as the job has asked for them."""
    return None if found is None or job.num_logprobs is None else found.top(1 + job.num_logprobs)


def sampling_args(job: Job) -> dict[str, Any] | None:
    """The request's extra_args for our logits processors: the fields of sampling.params.RowParams that are
    not neutral, and num_output_before. A greedy request needs no seed."""
    params = job.params
    asked = _asked(params, ALWAYS)
    if params.temperature >= GREEDY:
        asked |= {"seed": job.seed, **_asked(params, WHERE_DRAWN)}
    if job.num_output_before:
        asked["num_output_before"] = job.num_output_before
    return asked or None


def _asked(params: GenerationParams, names: tuple[str, ...]) -> dict[str, Any]:
    values = ((name, getattr(params, name)) for name in names)
    return {name: value for name, value in values if value != getattr(NEUTRAL, name)}
