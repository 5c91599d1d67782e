"""All events that the server logs; docs/events.md is made from this.

The text of each message, as it is in the code -> the event's name, then the names of the message's values. A
log in JSON has them as fields (logs.py). The meaning of a name does not change; the words of a message may.
"""

from __future__ import annotations

from typing import Final

REQUEST = "request"  # one line for each request, with fields of its own
OTHER = "other"  # a message of a library
REQUEST_FIELDS = {
    "id": "x-request-id, the client's own or a new one",
    "method": "",
    "path": "as requested",
    "status": "the HTTP status; 499: the client has left",
    "reason": "that of the error's body",
    "key": "the API key's name",
    "model": "the model or adapter",
    "user": "the request's field",
    "prompt_tokens": "",
    "completion_tokens": "of all candidates",
    "seconds": "from the request's head to the reply's end",
    "trace": "the trace's id, if the request is traced",
}

EVENTS: Final[dict[str, tuple[str, ...]]] = {
    # The server
    "%s %s listens on %s": ("server.listens", "name", "version", "url"),
    "the admin port is at %s": ("server.admin_listens", "url"),
    "ready after %.1f s": ("server.ready", "seconds"),
    "%s: no new requests are accepted; %d running ones have %g s to finish": (
        "server.drains",
        "signal",
        "running",
        "seconds",
    ),
    "%d requests are cut off": ("server.requests_cut_off", "requests"),
    "stopped": ("server.stopped",),
    "the event loop runs again, after it stood still for %.1f s": ("loop.went_on", "seconds"),
    "the event loop has stood still for %.1f s, here:\n%s": ("loop.stalled", "seconds", "stack"),
    "worker %d ended (%s); starting another one in %g s": ("worker.ended", "worker", "how", "seconds"),
    "%s: %s": ("configuration.asked", "what", "answer"),
    "`verbatim reload` ended before the server had an answer for it": ("configuration.asker_left",),
    "`verbatim reload` cannot reach this server (%s); send SIGHUP instead": (
        "configuration.no_socket",
        "reason",
    ),
    "not all workers have taken over the new configuration within %g s": (
        "configuration.worker_late",
        "seconds",
    ),
    # Requests and connections
    "request %s failed": ("request.failed", "id"),
    "request %s: %s": ("request.ended_by_engine", "id", "reason"),
    "request %s: %s (%d of them)": ("request.nan", "id", "what", "values"),
    "request %s: %d engines died while they worked on it, the last one on it alone; it is given up": (
        "request.given_up",
        "id",
        "engines",
    ),
    "requests of the API key %s are not counted towards its limits: %s": (
        "limits.not_counted",
        "key",
        "reason",
    ),
    (
        "a process holds the lock of the keys' limits too long; some requests are not counted towards the"
        " limits"
    ): ("limits.locked",),
    "ignored unknown fields: %s": ("request.unknown_fields", "fields"),
    (
        "all %d connections that this process may have are taken: %d more were refused with a 503, and %d"
        " that sent no request were closed"
    ): ("connections.full", "connections", "refused", "closed"),
    "a TLS handshake failed: %s": ("connections.no_handshake", "reason"),
    # Keys and certificates
    "the file of API keys: %s": ("keys.problem", "problem"),
    "%d keys of %s can be used": ("keys.read", "keys", "file"),
    "every user of this machine can read the key in %s: `chmod o= %s`": (
        "certificate.key_readable",
        "file",
        "same_file",
    ),
    "the certificate in %s is in use": ("certificate.in_use", "file"),
    "the certificate in %s %s": ("certificate.expires", "file", "problem"),
    "%s The certificate that was read before stays in use.": ("certificate.refused", "problem"),
    # Models
    "%s is left out: %s": ("model.left_out", "directory", "problem"),
    "%s is left out: the name of a model may not contain spaces; rename the folder": (
        "model.name_has_spaces",
        "directory",
    ),
    "model %s: load_format is dummy, so its weights are random and its text is noise": (
        "model.dummy",
        "model",
    ),
    ("model %s: prompts that begin with the BOS token do not get a second one (single_bos)"): (
        "model.one_bos",
        "model",
    ),
    "%s: prompts are tokenized without fastokens, because %s": ("tokenizer.slow", "file", "reason"),
    "%s: fastokens is not used, because it tokenizes %r otherwise": ("tokenizer.differs", "file", "text"),
    "%s; the other models are served": ("model.failed", "reason"),
    "%s: the token %r has the id %s, not %d as a file says": (
        "tokenizer.other_id",
        "directory",
        "token",
        "id",
        "told",
    ),
    "%s: %s is %r, which is not an id of the model's %d tokens; it is ignored": (
        "tokenizer.no_such_id",
        "file",
        "name",
        "id",
        "tokens",
    ),
    "adapter %s: it was trained on %s, according to its %s, but is served on %s, whose shapes fit": (
        "adapter.other_base",
        "adapter",
        "trained_on",
        "file",
        "model",
    ),
    "adapter %s: its tokenizer.json differs from the model's; the model's is used": (
        "adapter.other_tokenizer",
        "adapter",
    ),
    "model %s: %s": ("model.moved", "model", "what"),
    "model %s: %s; it is unloaded, and loaded again at the next request": (
        "model.load_failed",
        "model",
        "reason",
    ),
    (
        "model %s: it takes about %.1f GiB, and its group has %.1f GiB for it; it is loaded when that is"
        " free, which may fail"
    ): ("model.too_large", "model", "gib", "room_gib"),
    "model %s: its next engine needs the memory of the current one, and starts when that has ended": (
        "model.replaced_late",
        "model",
    ),
    "model %s: %d candidates did not end within %g s (drain_timeout_s), and are cut off": (
        "model.candidates_cut_off",
        "model",
        "candidates",
        "seconds",
    ),
    "model %s: replica %d is idle, and ends": ("replica.ends", "model", "replica"),
    "model %s: requests wait; replica %d starts": ("replica.starts", "model", "replica"),
    # Engines
    "%s: %s (%s took %.1f s)": ("engine.phase", "engine", "phase", "before", "seconds"),
    "model %s: it runs on vLLM's %s model runner": ("engine.runner", "model", "runner"),
    "%s: %s; restarting it (%d)": ("engine.lost", "engine", "reason", "restarts"),
    "%s: %d candidates continue after %.1f s": ("engine.resumed", "engine", "candidates", "seconds"),
    "%s: %d candidates continue on other replicas": ("engine.resumed_elsewhere", "engine", "candidates"),
    "model %s: the engine hangs and is killed: %s": ("engine.hangs", "model", "reason"),
    "the engine process %d does not end, not even after SIGKILL": ("engine.unkillable", "engine_pid"),
    "%s: the engine did not start": ("engine.start_bug", "engine"),
    "%s: the server's watch over the engine failed": ("engine.watch_bug", "engine"),
    "%s: %s; the former engine keeps running": ("engine.goes_on", "engine", "reason"),
    "%s: the engine could not be woken, so a new one is started: %s": (
        "engine.not_woken",
        "engine",
        "reason",
    ),
    "model %s: an engine could not go to sleep and is ended: %s": ("engine.cannot_sleep", "model", "reason"),
    "model %s: an engine that slept has ended: %s": ("engine.lost_asleep", "model", "reason"),
    "%s; the other replicas keep running": ("replica.failed", "reason"),
    "model %s: the standby process %s; starting another one in %g s": (
        "standby.ended",
        "model",
        "reason",
        "seconds",
    ),
    "a message of the engine cannot be decoded": ("engine.unreadable",),
    # Clusters
    "the engine cannot run: %s": ("cluster.engine_refused", "reason"),
    "the server's watch over the engine failed; the actor ends, and Ray restarts it": ("cluster.actor_bug",),
    "replica %d of model %d: %s": ("cluster.replica_unreached", "replica", "model", "reason"),
    "replica %d of model %s has ended; another one is being started": (
        "cluster.replica_lost",
        "replica",
        "model",
    ),
    "model %s: %d replicas instead of %d, because requests wait (%.1f s in all)": (
        "cluster.scaled",
        "model",
        "replicas",
        "before",
        "wait_s",
    ),
    "all front ends have left; the engines end": ("cluster.no_front_end",),
    "front end %s has not reported for %g s, and counts as gone": (
        "cluster.front_end_gone",
        "front_end",
        "seconds",
    ),
    "the keeper failed to check its engines": ("cluster.keeper_bug",),
    "a front end %s": ("cluster.front_end_cut_off", "why"),
    "a message could not be passed on": ("cluster.message_lost",),
    "the connection to Ray is lost (%s); trying again in %g s": ("cluster.ray_lost", "reason", "seconds"),
    # Journal and traces
    (
        "request %s: journal.redact took longer than %.1f s, so the journal leaves out what the client and"
        " the model said"
    ): ("journal.redaction_late", "id", "seconds"),
    "the last %d records are missing in the journal": ("journal.cut_off", "records"),
    ("the journal cannot be written: %s; records are kept in memory until it is full, and then dropped"): (
        "journal.not_written",
        "reason",
    ),
    "the journal can be written again; %d records were dropped meanwhile": (
        "journal.written_again",
        "dropped",
    ),
    "request %s could not be recorded in the journal": ("journal.bug", "id"),
    "the trace of request %s could not be recorded": ("traces.bug", "id"),
    (
        "traces: %s does not accept spans (%s); they are dropped until it does, and requests are answered as"
        " usual"
    ): ("traces.not_taken", "endpoint", "reason"),
    "traces: %s accepts spans again": ("traces.taken_again", "endpoint"),
}
