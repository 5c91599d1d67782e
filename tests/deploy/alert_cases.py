"""What each alert of deploy/prometheus is for, and what it leaves alone: series, and whether it rings."""

from __future__ import annotations

from dataclasses import dataclass

# Of the target that is scraped; each series has them.
TARGET = {"job": "verbatim", "instance": "a"}


@dataclass(frozen=True)
class Case:
    """series: by their names, with the labels that are their own, a value each minute, in promtool's notation
    (`0 1+0x5`: 0, then 1 six times; `_`: no sample). at: when it is looked, minutes. fires: the labels of the
    alert that rings then, besides its name and severity; None: none rings."""

    alert: str
    why: str
    series: dict[str, str]
    at: int
    fires: dict[str, str] | None = None


def _model(ready: str, **states: str) -> dict[str, str]:
    """A model named m, in these states."""
    told = {f'verbatim_model_state{{model="m",state="{state}"}}': values for state, values in states.items()}
    return {'verbatim_model_ready{model="m"}': ready} | told


def _fails(good: str, bad: str, status: str = "503") -> dict[str, str]:
    return {
        'verbatim_requests_total{model="m",key="k",status="200"}': good,
        f'verbatim_requests_total{{model="m",key="k",status="{status}"}}': bad,
    }


M, E = {"model": "m"}, {"job": "verbatim", "model": "m", "engine": "0"}
DEATHS = 'verbatim_engine_deaths_total{model="m",engine="0"}'
FILE = {"file": "/tls/cert.pem"}
CERTIFICATE = 'verbatim_certificate_expiry_timestamp_seconds{file="/tls/cert.pem"}'
HANGS = 'verbatim_engine_hangs_total{model="m",engine="0"}'
LOST = 'verbatim_lost_seconds_total{model="m",engine="0"}'
REPLICA = 'verbatim_replica_ready{model="m",engine="1"}'
INTERNAL = 'verbatim_errors_total{model="m",key="k",reason="INTERNAL_ERROR"}'
KEY = TARGET | {"model": "m", "key": "k"}
WAITING = 'verbatim_candidates_waiting{model="m"}'
PREEMPTED = 'vllm:num_preemptions_total{model_name="m",engine="0"}'
LOADS = 'verbatim_model_load_failures_total{model="m"}'
ROOM = 'verbatim_model_unloads_total{model="m",why="room"}'
DROPPED = "verbatim_journal_dropped_total"
FULL = 'verbatim_connections_dropped_total{reason="full"}'
OTHER = ',instance="b"}'  # the same series of another front end
IN_JOB = {"job": "verbatim", "model": "m"}

CASES = (
    Case("VerbatimDown", "for a minute", {"up": "1 0+0x5"}, 3, TARGET),
    Case("VerbatimDown", "missed once", {"up": "1 0 1+0x5"}, 3),
    Case("VerbatimDown", "of another job", {'up{job="node"}': "0+0x5"}, 3),
    Case(
        "VerbatimModelFailed",
        "for good",
        _model("0+0x5", failed="1+0x5"),
        2,
        TARGET | M | {"state": "failed"},
    ),
    Case("VerbatimModelFailed", "loads", _model("0+0x5", failed="0+0x5", loading="1+0x5"), 2),
    Case("VerbatimModelNotReady", "loads too long", _model("0+0x9", loading="1+0x9"), 6, TARGET | M),
    Case("VerbatimModelNotReady", "loads", _model("0+0x9", loading="1+0x9"), 4),
    Case("VerbatimModelNotReady", "comes back", _model("0+0x4 1+0x9", loading="1+0x4 0+0x9"), 8),
    Case("VerbatimModelNotReady", "unloaded by an operator", _model("0+0x9", unloaded="1+0x9"), 8),
    Case("VerbatimModelNotReady", "put to sleep", _model("0+0x9", asleep="1+0x9"), 8),
    Case("VerbatimModelNotReady", "on demand, and not asked for", _model("0+0x9", unloaded="1+0x9"), 8),
    Case("VerbatimModelNotReady", "has an alert of its own", _model("0+0x9", failed="1+0x9"), 8),
    Case("VerbatimModelLoadFails", "the first", {LOADS: "_x5 1+0x20"}, 10, TARGET | M),
    Case("VerbatimModelLoadFails", "one more", {LOADS: "2+0x70 3+0x20"}, 80, TARGET | M),
    Case("VerbatimModelLoadFails", "none since", {LOADS: "2+0x70"}, 65),
    Case(
        "VerbatimReplicaNotReady",
        "one of two",
        _model("1+0x9", loaded="1+0x9") | {REPLICA: "0+0x9"},
        6,
        TARGET | M | {"engine": "1"},
    ),
    Case(
        "VerbatimReplicaNotReady",
        "all of them load",
        _model("0+0x9", loading="1+0x9") | {REPLICA: "0+0x9"},
        8,
    ),
    Case(
        "VerbatimReplicaNotReady",
        "the model is unloaded",
        _model("0+0x9", unloaded="1+0x9") | {REPLICA: "0+0x9"},
        8,
    ),
    Case("VerbatimEngineDeaths", "four in an hour", {DEATHS: "0 0 1 2 3 4+0x40"}, 30, E),
    Case("VerbatimEngineDeaths", "three in an hour", {DEATHS: "0 0 1 2 3+0x40"}, 30),
    Case("VerbatimEngineDeaths", "four in two hours", {DEATHS: "0+0x9 1+0x39 2+0x39 3+0x39 4+0x20"}, 140),
    Case("VerbatimEngineDeaths", "four, two of them before a restart", {DEATHS: "0 1 2 0 1 2+0x40"}, 30, E),
    Case(
        "VerbatimEngineDeaths",
        "four, seen by two front ends",
        {DEATHS: "0 1 2 3 4+0x40", DEATHS[:-1] + OTHER: "0 1 2 3 4+0x40"},
        30,
        E,
    ),
    Case(
        "VerbatimEngineDeaths",
        "two, seen by two front ends",
        {DEATHS: "0 1 2+0x40", DEATHS[:-1] + OTHER: "0 1 2+0x40"},
        30,
    ),
    Case("VerbatimEngineDeaths", "an hour ago", {DEATHS: "0 1 2 3 4+0x90"}, 70),
    Case("VerbatimEngineHangs", "one", {HANGS: "0 0 1+0x40"}, 30, E),
    Case("VerbatimEngineHangs", "none", {HANGS: "1+0x40", DEATHS: "1 2+0x40"}, 30),
    Case("VerbatimTimeLost", "more than a minute", {LOST: "0 0 61.5+0x40"}, 30, E),
    Case("VerbatimTimeLost", "half a minute", {LOST: "0 0 30+0x40"}, 30),
    Case("VerbatimLoopStalls", "one", {"verbatim_loop_stalls_total": "0 0 1+0x40"}, 30, TARGET),
    Case("VerbatimLoopStalls", "none since", {"verbatim_loop_stalls_total": "1+0x40"}, 30),
    Case("VerbatimInternalErrors", "the first", {INTERNAL: "_x10 1+0x40"}, 30, KEY),
    Case("VerbatimInternalErrors", "one more", {INTERNAL: "5+0x70 6+0x40"}, 90, KEY),
    Case("VerbatimInternalErrors", "the first, more than an hour ago", {INTERNAL: "_x10 1+0x90"}, 80),
    Case(
        "VerbatimInternalErrors",
        "none since, across a gap in the scraping",
        {INTERNAL: "5+0x20 _x20 5+0x90"},
        95,
    ),
    Case(
        "VerbatimInternalErrors",
        "a client's fault",
        {INTERNAL.replace("INTERNAL_ERROR", "NOT_FOUND"): "_x10 1+0x40"},
        30,
    ),
    Case("VerbatimRequestsFail", "one in eleven", _fails("0+100x40", "0+10x40"), 25, IN_JOB),
    Case("VerbatimRequestsFail", "one in a hundred", _fails("0+100x40", "0+1x40"), 25),
    Case("VerbatimRequestsFail", "for five minutes", _fails("0+100x40", "0+0x10 0+10x5 50+0x40"), 35),
    Case("VerbatimRequestsFail", "clients' faults", _fails("0+100x40", "0+50x40", status="429"), 25),
    Case("VerbatimRequestsFail", "nobody asks", _fails("5+0x40", "5+0x40"), 25),
    Case("VerbatimQueue", "a quarter of an hour", {WAITING: "3+0x20"}, 16, IN_JOB),
    Case("VerbatimQueue", "a peak", {WAITING: "0 50+0x9 0+0x10"}, 16),
    Case(
        "VerbatimKVCacheFull",
        "again and again",
        {PREEMPTED: "0+2x60"},
        50,
        {"job": "verbatim", "model_name": "m", "engine": "0"},
    ),
    Case("VerbatimKVCacheFull", "a peak", {PREEMPTED: "0 9+0x60"}, 20),
    Case("VerbatimModelsChase", "six in an hour", {ROOM: "_x5 1+1x5 6+0x20"}, 20, IN_JOB),
    Case("VerbatimModelsChase", "two in an hour", {ROOM: "_x5 1+1x1 2+0x20"}, 20),
    Case("VerbatimModelsChase", "because they were idle", {ROOM.replace("room", "idle"): "_x5 1+1x9"}, 14),
    Case("VerbatimConnectionsDropped", "the first", {FULL: "_x5 1+0x20"}, 10, TARGET),
    Case("VerbatimConnectionsDropped", "more", {FULL: "7+0x40 9+0x20"}, 45, TARGET),
    Case("VerbatimConnectionsDropped", "none since", {FULL: "_x5 1+0x40"}, 40),
    Case("VerbatimConnectionsDropped", "no handshake", {FULL.replace("full", "handshake"): "_x5 1+3x20"}, 10),
    Case("VerbatimJournalDrops", "some", {DROPPED: "0+0x5 40+0x20"}, 20, TARGET),
    Case("VerbatimJournalDrops", "none since", {DROPPED: "40+0x20"}, 20),
    Case("VerbatimCertificateExpires", "in a week", {CERTIFICATE: "604800+0x5"}, 3, TARGET | FILE),
    Case("VerbatimCertificateExpires", "in a month", {CERTIFICATE: "2592000+0x5"}, 3),
    Case("VerbatimKeysFile", "for a minute", {"verbatim_keys_file_ok": "1 0+0x5"}, 3, TARGET),
    Case("VerbatimKeysFile", "an editor writes it", {"verbatim_keys_file_ok": "1 0 1+0x5"}, 3),
)
