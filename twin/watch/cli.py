"""The command `verbatim watch`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from server.client.trust import CA, Cert, CertKey, Trust
from server.errors import ConfigurationError


def watch(
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Server to pass the requests on to.")
    ] = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Record each exchange in a file here, without API keys."),
    ] = None,
    redact_prompts: Annotated[
        bool, typer.Option("--redact-prompts", help="Leave prompts out of the recordings.")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Answer from these recordings, without a server.")
    ] = None,
    timing: Annotated[
        Literal["recorded", "none"], typer.Option(help="Timing of replayed answers; none: all at once.")
    ] = "recorded",
    speed: Annotated[
        float | None, typer.Option(metavar="TIMES", help="Factor on the recorded speed.  [default: 1]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8001,
) -> None:
    """Pass requests on to a server of any make, and report what the clients do wrong.

    The report is at /simulator/verdict, as with `verbatim simulate`.
    """
    from twin.recordings.reading import Recordings, read_recordings  # late: the application is slow to import
    from twin.recordings.writing import Recorder
    from twin.watch.proxy import Proxy, upstream_of
    from twin.watch.replay import Replay
    from twin.watch.serve import serve

    if (upstream is None) == (replay is None):
        raise ConfigurationError("verbatim watch needs either --upstream URL or --replay DIR.")
    if replay is not None:
        if record is not None:
            raise ConfigurationError("--record and --replay cannot be given together.")
        times = _speed(timing, speed)
        recordings = read_recordings(replay)
        what = f"answers from recordings ({len(recordings)} in {replay})"
        serve(Replay(Recordings(recordings), times), host, port, what)
        return
    if timing != "recorded" or speed is not None:
        raise ConfigurationError("--timing and --speed need --replay DIR.")
    if redact_prompts and record is None:
        raise ConfigurationError("--redact-prompts needs --record DIR.")
    url = upstream_of(str(upstream))
    recorder = Recorder(record, redact_prompts=redact_prompts) if record is not None else None
    what = f"passes requests on to {url}" + (f", recording in {record}" if record else "")
    serve(Proxy(url, recorder, Trust(cert, cert_key, ca)), host, port, what)


def _speed(timing: str, speed: float | None) -> float:
    if timing == "none":
        if speed is not None:
            raise ConfigurationError("--timing none and --speed cannot be given together.")
        return math.inf
    if speed is not None and not speed > 0:
        raise ConfigurationError(f"--speed must be a number above 0, not {speed:g}.")
    return speed or 1.0
