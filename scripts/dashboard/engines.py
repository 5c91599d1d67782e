"""Rows of the dashboard about engines: places and memory, living engines, keys, and loaded models."""

from __future__ import annotations

from scripts.dashboard.panel import (
    ENGINES,
    OURS,
    RATE,
    Kind,
    Panel,
    Row,
    in_an_hour,
    in_use,
    largest,
    rate,
    state,
)

EACH = "job, model_name, engine"
QUEUE = Row(
    "Queue and KV cache",
    (
        Panel(
            "Running and waiting",
            "Candidates: in the engines' batches, waiting in the engines, and waiting in the server for"
            " their turn.",
            {
                "running": f"sum({largest('vllm:num_requests_running', ENGINES, EACH)})",
                "waiting in engines": f"sum({largest('vllm:num_requests_waiting', ENGINES, EACH)})",
                "waiting for their turn": f"sum(verbatim_candidates_waiting{{{OURS}}})",
            },
        ),
        Panel(
            "KV cache in use",
            "For each engine; 100 % is all of it.",
            {"{{model_name}} {{engine}}": largest("vllm:kv_cache_usage_perc", ENGINES, EACH)},
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Prefix cache",
            "Share of prompt tokens that were found in the cache and not computed again.",
            {
                "hits": f"{rate('vllm:prefix_cache_hits_total', ENGINES, 'model_name')}"
                f" / {rate('vllm:prefix_cache_queries_total', ENGINES, 'model_name')}"
            },
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Requests preempted",
            "Per second, for lack of KV cache: their prompts are computed a second time.",
            {"{{model_name}} {{engine}}": rate("vllm:num_preemptions_total", ENGINES, "model_name, engine")},
            unit="ops",
        ),
        Panel(
            "Draft tokens accepted",
            "With speculative decoding: the share of draft tokens that were accepted, and accepted tokens"
            " per draft.",
            {
                "share": f"sum(rate(vllm:spec_decode_num_accepted_tokens_total{{{ENGINES}}}[{RATE}]))"
                f" / sum(rate(vllm:spec_decode_num_draft_tokens_total{{{ENGINES}}}[{RATE}]))",
                "a draft": f"sum(rate(vllm:spec_decode_num_accepted_tokens_total{{{ENGINES}}}[{RATE}]))"
                f" / sum(rate(vllm:spec_decode_num_drafts_total{{{ENGINES}}}[{RATE}]))",
            },
        ),
    ),
)
FAULTS = Row(
    "Engines and failures",
    (
        Panel(
            "Models",
            "With several front ends: the worst state that one of them reports.",
            {"{{job}} {{model}}": state()},
            kind=Kind.STATES,
        ),
        Panel(
            "Replicas",
            "Each engine of each model that is not unloaded on purpose.",
            {"{{model}} {{engine}}": f"min by (job, model, engine) ({in_use('verbatim_replica_ready')})"},
            kind=Kind.STATES,
            most=1,
        ),
        Panel(
            "Lost and resumed",
            "In an hour: engines that died, those of them that hung, and candidates that continued on"
            " another engine.",
            {
                "died": f"sum({in_an_hour('verbatim_engine_deaths_total')})",
                "hung": f"sum({in_an_hour('verbatim_engine_hangs_total')})",
                "candidates resumed": f"sum(increase(verbatim_resumed_total{{{OURS}}}[1h]))",
            },
        ),
        Panel(
            "Time without an engine",
            "In an hour: time from the end of an engine until the next one was ready.",
            {"{{model}} {{engine}}": in_an_hour("verbatim_lost_seconds_total")},
            unit="s",
        ),
        Panel(
            "Errors",
            "Failed requests per second, by reason.",
            {"{{reason}}": f'sum by (reason) (rate(verbatim_errors_total{{job=~"$job"}}[{RATE}]))'},
            unit="reqps",
            is_stacked=True,
        ),
        Panel(
            "The server itself",
            "In an hour: stalls of the event loop, and connections that were dropped.",
            {
                "stalls {{instance}}": 'increase(verbatim_loop_stalls_total{job=~"$job"}[1h])',
                "connections dropped, {{reason}}": (
                    'sum by (reason) (increase(verbatim_connections_dropped_total{job=~"$job"}[1h]))'
                ),
                "keys file wrong {{instance}}": '1 - verbatim_keys_file_ok{job=~"$job"}',
                "certificate expires in two weeks {{instance}}": (
                    'verbatim_certificate_expiry_timestamp_seconds{job=~"$job"} - time() < bool 14 * 86400'
                ),
            },
        ),
    ),
)
KEYS = Row(
    "Keys",
    (
        Panel(
            "Generated tokens, by key",
            "Per second, for the ten keys with the most; including candidates that were not returned.",
            {"{{key}}": f"topk(10, {rate('verbatim_completion_tokens_total', OURS, 'key')})"},
            is_stacked=True,
        ),
        Panel(
            "Prompt tokens, by key",
            "Per second, for the ten keys with the most.",
            {"{{key}}": f"topk(10, {rate('verbatim_prompt_tokens_total', OURS, 'key')})"},
            is_stacked=True,
        ),
        Panel(
            "Requests, by key",
            "Per second, for the ten keys with the most.",
            {"{{key}}": f"topk(10, {rate('verbatim_requests_total', OURS, 'key')})"},
            unit="reqps",
            is_stacked=True,
        ),
    ),
)
LOADED = Row(
    "Models in memory",
    columns=4,
    panels=(
        Panel(
            "Memory of loaded models",
            "As far as known; 0 for a model without a group.",
            {
                "{{model}}": (
                    f"max by (job, model) (verbatim_model_bytes{{{OURS}}}"
                    f' and on (job, instance, model) verbatim_model_state{{{OURS}, state="loaded"}} == 1)'
                )
            },
            unit="bytes",
            is_stacked=True,
        ),
        Panel(
            "Loads",
            "Mean duration of a load, by where the weights came from.",
            {
                "{{source}}": (
                    f"sum by (source) (increase(verbatim_model_load_seconds_sum{{{OURS}}}[1h]))"
                    f" / sum by (source) (increase(verbatim_model_load_seconds_count{{{OURS}}}[1h]))"
                )
            },
            unit="s",
        ),
        Panel(
            "Failed loads",
            "In an hour. The waiting requests got a 503 with the engine's reason.",
            {"{{model}}": f"sum by (model) (increase(verbatim_model_load_failures_total{{{OURS}}}[1h]))"},
        ),
        Panel(
            "Unloads",
            "In an hour, by reason. Many of the reason `room`: the models evict each other.",
            {
                "{{model}}, {{why}}": (
                    f"sum by (model, why) (increase(verbatim_model_unloads_total{{{OURS}}}[1h]))"
                )
            },
        ),
    ),
)
RECORDS = Row(
    "Journal and traces",
    (
        Panel(
            "Journal",
            "Written records per second, and records lost in an hour because the disk was full or slow.",
            {
                "written": f'sum(rate(verbatim_journal_records_total{{job=~"$job"}}[{RATE}]))',
                "lost in an hour": 'sum(increase(verbatim_journal_dropped_total{job=~"$job"}[1h]))',
            },
        ),
        Panel(
            "Spans of traces",
            "Per second: sent, refused by the collector, and dropped because too many were waiting.",
            {"{{result}}": f'sum by (result) (rate(verbatim_spans_total{{job=~"$job"}}[{RATE}]))'},
            is_stacked=True,
        ),
    ),
    columns=2,
)
ROWS = (QUEUE, FAULTS, KEYS, LOADED, RECORDS)
