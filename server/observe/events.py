"""What the server logs, each event by its name: docs/events.md is made from this.

By the text of each message, as it is in the code: the event's name, then those of the message's values. A log
in JSON has them as fields (logs.py). What a name stands for does not change; a message's words may.
"""

from __future__ import annotations

from typing import Final

REQUEST = "request"  # a line for each request, with fields of its own
OTHER = "other"  # of a library
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
    "%s: no new requests; %d running may take %g s": ("server.drains", "signal", "running", "seconds"),
    "%d requests are cut off": ("server.requests_cut_off", "requests"),
    "stopped": ("server.stopped",),
    "the event loop goes on, after %.1f s in which nobody was answered": ("loop.went_on", "seconds"),
    "the event loop has stood still for %.1f s, here:\n%s": ("loop.stalled", "seconds", "stack"),
    "worker %d ended, %s; starting another one in %g s": ("worker.ended", "worker", "how", "seconds"),
    "%s: %s": ("configuration.asked", "what", "answer"),
    "whoever asked for the reload has not waited for it": ("configuration.asker_left",),
    "`verbatim reload` will not reach this server (%s); SIGHUP does": ("configuration.no_socket", "reason"),
    "not all workers have taken the new configuration over within %g s": (
        "configuration.worker_late",
        "seconds",
    ),
    # Requests and connections
    "request %s failed": ("request.failed", "id"),
    "request %s: %s": ("request.ended_by_engine", "id", "reason"),
    "request %s: %d of its %s": ("request.nan", "id", "values", "what"),
    "request %s: %d engines died while they worked on it, the last one on it alone; it is given up": (
        "request.given_up",
        "id",
        "engines",
    ),
    "requests of the API key %s are not counted: %s": ("limits.not_counted", "key", "reason"),
    "a process holds the lock of the keys' limits; some requests are not counted": ("limits.locked",),
    "ignored unknown fields: %s": ("request.unknown_fields", "fields"),
    (
        "the %d connections that this process may have are taken: %d more were refused with a 503, %d"
        " that sent no request were closed"
    ): ("connections.full", "connections", "refused", "closed"),
    "no handshake: %s": ("connections.no_handshake", "reason"),
    # Keys and certificates
    "the keys' file: %s": ("keys.problem", "problem"),
    "%d keys of %s are valid": ("keys.read", "keys", "file"),
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
    "%s is left out: the name of a model has no spaces; rename the folder": (
        "model.name_has_spaces",
        "directory",
    ),
    "model %s: load_format is dummy, so its weights are random: noise": ("model.dummy", "model"),
    (
        "model %s: a prompt begins with the BOS token, so the tokenizer's own is left out, as it is"
        " before every such prompt (single_bos)"
    ): ("model.one_bos", "model"),
    "%s; the other models are served": ("model.failed", "reason"),
    "%s: the token %r has the id %s, not %d as a file says": (
        "tokenizer.other_id",
        "directory",
        "token",
        "id",
        "told",
    ),
    "%s: %s is %r, which is no id of the model's %d tokens; it is left out": (
        "tokenizer.no_such_id",
        "file",
        "name",
        "id",
        "tokens",
    ),
    "adapter %s: it was trained on %s, by its %s, and is served on %s, whose shapes fit": (
        "adapter.other_base",
        "adapter",
        "trained_on",
        "file",
        "model",
    ),
    "adapter %s: its tokenizer.json is another one than the model's, which is used": (
        "adapter.other_tokenizer",
        "adapter",
    ),
    "model %s: %s": ("model.moved", "model", "what"),
    "model %s: %s; it is unloaded, and loaded when it is asked for again": (
        "model.load_failed",
        "model",
        "reason",
    ),
    (
        "model %s: it takes %.1f GiB, as far as is known, and its group has %.1f for it; it is loaded"
        " when that is free, and may fail"
    ): ("model.too_large", "model", "gib", "room_gib"),
    "model %s: its next engine needs the memory of this one, and starts after it": (
        "model.replaced_late",
        "model",
    ),
    "model %s: %d candidates had not ended within %g s (drain_timeout_s), and are cut off": (
        "model.candidates_cut_off",
        "model",
        "candidates",
        "seconds",
    ),
    "model %s: replica %d has nothing to do, and ends": ("replica.ends", "model", "replica"),
    "model %s: requests wait; replica %d starts": ("replica.starts", "model", "replica"),
    # Engines
    "%s: %s (%s took %.1f s)": ("engine.phase", "engine", "phase", "before", "seconds"),
    "model %s: on vLLM's %s model runner": ("engine.runner", "model", "runner"),
    "%s: %s; starting it again (%d)": ("engine.lost", "engine", "reason", "restarts"),
    "%s: %d candidates go on after %.1f s": ("engine.resumed", "engine", "candidates", "seconds"),
    "%s: %d candidates go on elsewhere": ("engine.resumed_elsewhere", "engine", "candidates"),
    "model %s: the engine hangs: %s; it is killed": ("engine.hangs", "model", "reason"),
    "the engine process %d does not end, not even by SIGKILL": ("engine.unkillable", "engine_pid"),
    "%s: the engine did not start": ("engine.start_bug", "engine"),
    "%s: the engine is not watched any more": ("engine.watch_bug", "engine"),
    "%s: %s; it goes on as before": ("engine.goes_on", "engine", "reason"),
    "%s: the engine could not be woken, another one is made: %s": ("engine.not_woken", "engine", "reason"),
    "model %s: it cannot sleep, and is ended: %s": ("engine.cannot_sleep", "model", "reason"),
    "model %s: %s while it slept": ("engine.lost_asleep", "model", "reason"),
    "%s; the other replicas are served": ("replica.failed", "reason"),
    "model %s: in reserve, %s; starting another one in %g s": ("standby.ended", "model", "reason", "seconds"),
    "what the engine has sent cannot be read": ("engine.unreadable",),
    # Clusters
    "the engine cannot be run: %s": ("cluster.engine_refused", "reason"),
    "the engine is not watched any more; the actor ends, and Ray starts it again": ("cluster.actor_bug",),
    "replica %d of model %d: %s": ("cluster.replica_unreached", "replica", "model", "reason"),
    "replica %d of model %s has ended; another one is started": ("cluster.replica_lost", "replica", "model"),
    "model %s: %d replicas instead of %d (%.1f s of waiting)": (
        "cluster.scaled",
        "model",
        "replicas",
        "before",
        "wait_s",
    ),
    "no front end is there any more; the engines end": ("cluster.no_front_end",),
    "front end %s has said nothing for %g s, and is gone": ("cluster.front_end_gone", "front_end", "seconds"),
    "the keeper has not looked after its engines": ("cluster.keeper_bug",),
    "a front end %s": ("cluster.front_end_cut_off", "why"),
    "a message has not been passed on": ("cluster.message_lost",),
    "the way to Ray is lost (%s); trying again in %g s": ("cluster.ray_lost", "reason", "seconds"),
    # Journal and traces
    (
        "request %s: journal.redact was not done with it within %.1f s, so what its client and the model"
        " have said is left out of the journal"
    ): ("journal.redaction_late", "id", "seconds"),
    "the journal lacks its last %d records": ("journal.cut_off", "records"),
    ("the journal cannot be written: %s; records are kept in memory while there is room, and then dropped"): (
        "journal.not_written",
        "reason",
    ),
    "the journal is written again; %d records were dropped meanwhile": ("journal.written_again", "dropped"),
    "request %s is not in the journal": ("journal.bug", "id"),
    "request %s has no trace": ("traces.bug", "id"),
    (
        "traces: %s does not take spans (%s); until it does, they are lost, and requests are answered as ever"
    ): ("traces.not_taken", "endpoint", "reason"),
    "traces: %s takes spans again": ("traces.taken_again", "endpoint"),
}
