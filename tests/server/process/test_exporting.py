"""How spans travel to a collector, and what becomes of them where it does not take them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from server.config.tracing import Tracing
from server.errors import ConfigurationError
from server.observe import exporting
from tests.collector import PHASES, Collector, collecting, collecting_grpc, seen, traced, tree
from tests.helpers import URL, app_of, eager, until
from tests.serving import Client, serving

BODY: dict[str, Any] = {"model": "m", "prompt": "hello", "max_tokens": 8}


async def test_grpc(directory: Path) -> None:
    """The same spans over gRPC, with the configured headers."""
    with collecting_grpc() as collector:
        settings = {"protocol": "grpc", "headers": {"X-Token": "t"}}
        async with traced(collector, eager(directory)[0], **settings) as (_, client):
            await client.post(URL, json=BODY)
            found = await tree(collector)
    assert found.names() == PHASES
    assert collector.requests[0]["x-token"] == "t"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_headers(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """Those of the configuration and of the environment are sent, and are in no log, nor in the settings as
    they are shown."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-env=of%20environment")
    caplog.set_level(logging.DEBUG)
    settings = {"headers": {"Authorization": "Bearer of-file"}, "protocol": protocol}
    with collecting() if protocol != "grpc" else collecting_grpc() as collector:
        async with traced(collector, eager(directory)[0], **settings) as (app, client):
            await client.post(URL, json=BODY)
            await seen(collector)
            shown = repr(app.state.server.settings)
    assert collector.requests[0]["authorization"] == "Bearer of-file"
    assert collector.requests[0]["x-env"] == "of environment"
    assert "of-file" not in caplog.text + shown
    assert "environment" not in caplog.text


def test_a_header_of_the_environment_that_is_none(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """It stops the start, and is not shown."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=b,Bearer secret")
    with pytest.raises(ConfigurationError) as failure:
        app_of(eager(directory)[0], tracing=Tracing(endpoint=collector.url))
    assert "OTEL_EXPORTER_OTLP_HEADERS: its part 2 is not a header" in failure.value.message
    assert "secret" not in failure.value.message


async def test_the_resource(collector: Collector, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends is `verbatim`, unless the environment or the configuration has another name."""
    async with traced(collector, eager(directory)[0], resource={"deployment.environment.name": "test"}) as (
        _,
        client,
    ):
        await client.post(URL, json=BODY)
        first = (await tree(collector)).root.resource
    assert (first["service.name"], first["deployment.environment.name"]) == ("verbatim", "test")
    assert {"service.version", "host.name", "process.pid"} <= first.keys()
    collector.spans.clear()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    async with traced(collector, eager(directory)[0]) as (_, client):
        await client.post(URL, json=BODY)
        assert (await tree(collector)).root.resource["service.name"] == "mine"


async def test_a_collector_that_is_down(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Requests are answered as ever, and it is said once, and once that it is over."""
    with collecting() as collector:
        collector.status = 400
        async with traced(collector, eager(directory, step_s=0)[0]) as (_, client):
            for _ in range(3):
                assert (await client.post(URL, json=BODY)).status_code == 200
                num = len(collector.requests)
                await until(lambda num=num: len(collector.requests) > num)
            await until(lambda: "does not accept spans" in caplog.text)
            caplog.set_level(logging.INFO)
            collector.status = 200
            await client.post(URL, json=BODY)
            await seen(collector)
            await until(lambda: "accepts spans again" in caplog.text)
            metrics = (await client.get("/metrics")).text
    assert caplog.text.count("does not accept spans") == 1
    assert "code: 400" in caplog.text
    assert 'verbatim_spans_total{result="failed"} 15.0' in metrics
    assert 'verbatim_spans_total{result="sent"} 5.0' in metrics


async def test_a_collector_that_hangs(
    directory: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    """No more spans wait than have room, whole traces are dropped beyond, and the end takes no longer than
    it may."""
    monkeypatch.setattr(exporting, "MOST_WAITING", 64)
    monkeypatch.setattr(exporting, "BATCH", 16)
    monkeypatch.setattr(exporting, "LAST_S", 0.5)
    collector.holds.clear()
    async with traced(collector, eager(directory, step_s=0)[0]) as (app, client):
        for _ in range(20):
            assert (await client.post(URL, json=BODY | {"max_tokens": 1})).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'verbatim_spans_total{result="dropped"} 40.0' in metrics
        begun = time.monotonic()
        await asyncio.to_thread(app.state.server.tracer.close)
        assert time.monotonic() - begun < 15


async def test_nobody_listens(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A port at which there is nothing: the warning says so once, and the end does not wait for it."""
    monkeypatch.setattr(exporting, "TIMEOUT_S", 2.0)
    async with traced(Collector("http://127.0.0.1:9"), eager(directory)[0]) as (app, client):
        assert (await client.post(URL, json=BODY)).status_code == 200
        await until(lambda: "does not accept spans" in caplog.text)
        assert (await client.post(URL, json=BODY)).status_code == 200
        begun = time.monotonic()
        await asyncio.to_thread(app.state.server.tracer.close)
        assert time.monotonic() - begun < exporting.LAST_S
    assert caplog.text.count("does not accept spans") == 1
    assert "refused" in caplog.text


async def test_a_bug_of_ours_costs_a_trace_and_no_reply(
    collector: Collector, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(collector, eager(directory)[0]) as (_, client):
        monkeypatch.setattr("server.http.border.span_of", None)
        assert (await client.post(URL, json=BODY)).status_code == 200


def test_a_server_as_it_is_started(collector: Collector, directory: Path, tmp_path: Path) -> None:
    """Several processes send, each its own; what is left is sent when they end, and no secret is logged."""
    config = {
        "models": [{"id": "m", "path": str(directory), "engine": "simulated"}],
        "workers": 2,
        "tracing": {"endpoint": collector.url, "headers": {"x-token": "secret"}},
    }
    with serving(tmp_path, config, "--log-level", "debug") as server:
        server.wait_ready()
        with Client(server.url(), "key", "m") as client:
            assert client.complete(max_tokens=4)["usage"]["completion_tokens"] == 4
    assert collector.tree().names() == PHASES
    assert collector.requests[0]["x-token"] == "secret"
    said = server.said()
    assert "secret" not in said
    assert f"trace={collector.tree().root.trace}" in said


def test_nothing_is_imported_without_it() -> None:
    """A server that traces nothing has nothing of OpenTelemetry in memory."""
    names = "[name for name in sys.modules if name.startswith(('opentelemetry', 'grpc'))]"
    code = f"import sys, server.process.serve, server.process.worker; sys.exit(str({names} or 0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0"
