"""Our jobs and outputs in vLLM's terms and back. The seam that a new version of vLLM is most likely to
move."""

from __future__ import annotations

from typing import Any

from server.engine.base import EngineOutput, Job, TopLogprobs
from server.errors import ServiceUnavailable
from server.params import GenerationParams


def sampling_params(job: Job) -> Any:
    """A job as vLLM's SamplingParams."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = job.params
    eos = () if params.ignore_eos else job.eos_ids
    return SamplingParams(
        max_tokens=job.max_tokens,
        min_tokens=min(params.min_tokens, job.max_tokens),
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        # The penalties, the bias and min_p are ours (sampling/); vLLM's own stay neutral, or they would act
        # twice.
        extra_args=sampling_args(params),
        seed=job.seed,
        stop_token_ids=list(dict.fromkeys([*params.stop_token_ids, *eos])),
        ignore_eos=params.ignore_eos,
        logprobs=job.num_logprobs,
        prompt_logprobs=job.num_logprobs if job.prompt_logprobs else None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def engine_output(output: Any, job: Job) -> EngineOutput:
    """vLLM's RequestOutput as ours."""
    width = 1 + (job.num_logprobs or 0)
    candidate = output.outputs[0]
    if candidate.finish_reason not in (None, "stop", "length"):
        raise ServiceUnavailable(
            f"the engine ended the request ({candidate.finish_reason}); try again", retry_after_s=1
        )
    prompt = output.prompt_logprobs
    return EngineOutput(
        token_ids=list(candidate.token_ids),
        # vLLM's FlatLogprobs are flat as ours; of the prompt, their first position has no entries.
        logprobs=_flat(candidate.logprobs, width) if candidate.logprobs is not None else None,
        prompt_logprobs=_flat(prompt, width) if prompt else None,
        finish_reason=candidate.finish_reason,
    )


def _flat(positions: Any, width: int) -> TopLogprobs:
    return TopLogprobs(width, positions.token_ids, positions.logprobs)


def sampling_args(params: GenerationParams) -> dict[str, Any] | None:
    """What sampling.batch.RowParams finds in a request's extra_args: its fields that are not neutral."""
    given = {
        "logit_bias": params.logit_bias,
        "repetition_penalty": params.repetition_penalty,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "min_p": params.min_p,
    }
    neutral = GenerationParams()
    return {name: value for name, value in given.items() if value != getattr(neutral, name)} or None
