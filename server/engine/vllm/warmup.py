"""Jobs that run every path of an engine that compiles or allocates on first use, so that no user
waits for it."""

from __future__ import annotations

from msgspec.structs import replace

from server.contract.params import GenerationParams
from server.engine.base import Job
from server.text.grammars import source_of

# A prompt, and several single tokens.
PLAIN = GenerationParams(max_tokens=2, ignore_eos=True)
LONG_PROMPT = 300
ANYTHING = source_of("regex", r"(.|\n)*")


def warm_up_jobs(context_size: int) -> list[list[Job]]:
    """Jobs in steps that run together: each kind alone, all kinds in one batch, and a long prompt beside
    short ones. Jobs that do not fit into the context are left out."""
    kinds = [
        replace(PLAIN, temperature=0.0),
        PLAIN,
        replace(PLAIN, num_logprobs=5),
        replace(PLAIN, temperature=0.0, num_logprobs=0),
        replace(PLAIN, repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1),
        replace(PLAIN, top_k=5, top_p=0.9),
        replace(PLAIN, min_p=0.1),
        replace(PLAIN, logit_bias={0: -1.0}),
        replace(PLAIN, min_tokens=1, ignore_eos=False),
        replace(PLAIN, allowed_token_ids=(0, 1), bad_words=((0, 1), (1, 1, 0))),
        replace(PLAIN, grammar=ANYTHING),
    ]
    alone = [[_job(f"{number}", params)] for number, params in enumerate(kinds)]
    together = [_job(f"all-{number}", params) for number, params in enumerate(kinds)]
    echo = [_job("echo", replace(PLAIN, num_logprobs=5, echo=True), prompt_logprobs=True)]
    long = _job("long", PLAIN, prompt_length=min(LONG_PROMPT, max(1, context_size - PLAIN.max_tokens)))
    steps = [*alone, echo, [long, *together]]
    return [fitting for step in steps if (fitting := [job for job in step if _fits(job, context_size)])]


def _fits(job: Job, context_size: int) -> bool:
    return len(job.prompt_ids) + job.max_tokens <= context_size


def _job(
    name: str, params: GenerationParams, *, prompt_length: int = 3, prompt_logprobs: bool = False
) -> Job:
    return Job(
        id=f"warm-up-{name}",
        request_id=f"warm-up-{name}",
        prompt_ids=[k % 2 for k in range(prompt_length)],  # ids that every vocabulary has
        params=params,
        eos_ids=(0,),
        max_tokens=params.max_tokens,
        num_logprobs=params.num_logprobs,
        prompt_logprobs=prompt_logprobs,
    )
