"""Rows of the dashboard about requests: the current state, durations, and counts."""

from __future__ import annotations

from scripts.dashboard.panel import ENGINES, OURS, RATE, Kind, Panel, Row, in_use, mean, quantiles, rate

NOW = Row(
    "Now",
    columns=6,
    panels=(
        Panel(
            "Alerts firing",
            "Alerts of the rules in deploy/prometheus.",
            {"": 'count(ALERTS{alertname=~"Verbatim.*", alertstate="firing", job=~"$job"}) or vector(0)'},
            kind=Kind.STAT,
            is_bad=True,
        ),
        Panel(
            "Models that cannot answer",
            "Without models that are unloaded on purpose.",
            {"": f"count(max by (job, model) ({in_use('verbatim_model_ready')}) == 0) or vector(0)"},
            kind=Kind.STAT,
            is_bad=True,
        ),
        Panel(
            "Requests in flight",
            "Requests being answered, for all models.",
            {"": 'sum(verbatim_requests_in_flight{job=~"$job"})'},
            kind=Kind.STAT,
        ),
        Panel(
            "Tokens generated",
            "Per second, by all engines.",
            {"": f"sum(rate(vllm:generation_tokens_total{{{ENGINES}}}[{RATE}]))"},
            kind=Kind.STAT,
        ),
        Panel(
            "First token, p95",
            "One request in twenty waits longer.",
            {"": quantiles("vllm:time_to_first_token_seconds", ENGINES)["p95"]},
            unit="s",
            kind=Kind.STAT,
        ),
        Panel(
            "KV cache, fullest engine",
            "At 100 %, requests are preempted.",
            {"": f"max(vllm:kv_cache_usage_perc{{{ENGINES}}})"},
            unit="percentunit",
            kind=Kind.STAT,
        ),
    ),
)
LATENCY = Row(
    "Latency",
    (
        Panel(
            "Time to the first token",
            "From a request's arrival until its engine has the first token.",
            quantiles("vllm:time_to_first_token_seconds", ENGINES),
            unit="s",
        ),
        Panel(
            "Between tokens",
            "For one request; this is the speed that a reader sees.",
            quantiles("vllm:inter_token_latency_seconds", ENGINES),
            unit="s",
        ),
        Panel(
            "Between tokens, by request",
            "The mean of each request: a single slow token in a long answer does not show.",
            quantiles("vllm:request_time_per_output_token_seconds", ENGINES),
            unit="s",
        ),
        Panel(
            "Whole requests",
            "Until the last byte of the reply, for requests with any status.",
            quantiles("verbatim_request_seconds", OURS),
            unit="s",
        ),
        Panel(
            "First byte",
            "Until the first byte of the reply. A reply that is not streamed has its first byte at its end.",
            quantiles("verbatim_first_byte_seconds", OURS),
            unit="s",
        ),
        Panel(
            "Where a request's time goes",
            "Means: waiting in the engine, processing the prompt, generating.",
            {
                "queue": mean("vllm:request_queue_time_seconds", ENGINES),
                "prefill": mean("vllm:request_prefill_time_seconds", ENGINES),
                "decode": mean("vllm:request_decode_time_seconds", ENGINES),
            },
            unit="s",
            is_stacked=True,
        ),
    ),
)
THROUGHPUT = Row(
    "Throughput",
    (
        Panel(
            "Tokens generated",
            "Per second.",
            {"{{model_name}}": rate("vllm:generation_tokens_total", ENGINES, "model_name")},
            is_stacked=True,
        ),
        Panel(
            "Prompt tokens",
            "Per second, including those found in the prefix cache.",
            {"{{model_name}}": rate("vllm:prompt_tokens_total", ENGINES, "model_name")},
            is_stacked=True,
        ),
        Panel(
            "Requests",
            "Per second, by HTTP status; 499: the client has left.",
            {"{{status}}": rate("verbatim_requests_total", OURS, "status")},
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            "Tokens per step",
            "Shows how many requests an engine works on at the same time.",
            {"mean": mean("vllm:iteration_tokens_total", ENGINES)},
        ),
        Panel(
            "Tokens per request",
            "Means.",
            {
                "prompt": mean("vllm:request_prompt_tokens", ENGINES),
                "generated": mean("vllm:request_generation_tokens", ENGINES),
            },
        ),
        Panel(
            "How candidates end",
            "Per second: by a stop, at their length, or given up.",
            {"{{finished_reason}}": rate("vllm:request_success_total", ENGINES, "finished_reason")},
            unit="ops",
            is_stacked=True,
        ),
    ),
)
ROWS = (NOW, LATENCY, THROUGHPUT)
