"""The section `tracing`: what it refuses, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config.changes import check_changes
from server.config.loading import load_settings
from server.config.settings import Settings
from server.config.tracing import Tracing
from server.engine.ray.site import site_of
from server.errors import ConfigurationError
from server.process.workers import settings_text

LOCAL = "http://127.0.0.1:4318"


def load(tmp_path: Path, **keys: Any) -> Settings:
    file = tmp_path / "models.yaml"
    models = [{"id": "a", "path": "weights"}]
    file.write_text(yaml.safe_dump({"tracing": {"endpoint": LOCAL} | keys, "models": models}))
    return load_settings(file, {}, {})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"endpoint": "127.0.0.1:4318"}, "tracing.endpoint should be the collector's URL"),
        ({"endpoint": "ftp://collector"}, "tracing.endpoint should be the collector's URL"),
        ({"endpoint": "http://:4318"}, "tracing.endpoint should be the collector's URL"),
        ({"endpoint": "http://a:99999"}, "tracing.endpoint should be the collector's URL"),
        ({"endpoint": "http://a b:4318"}, "without spaces"),
        (
            {"endpoint": "http://me:hidden@a"},
            "without user name and password; put those into tracing.headers",
        ),
        ({"endpoint": f"{LOCAL}/?token=hidden"}, "without ? and #"),
        ({"endpoint": 5}, "tracing.endpoint is 5; it should be a valid string"),
        (
            {"endpoint": f"{LOCAL}/v1/traces", "protocol": "grpc"},
            "has a path, but with protocol grpc it may not have one",
        ),
        ({"protocol": "http"}, "it should be 'http/protobuf' or 'grpc'"),
        ({"sample_ratio": 1.5}, "tracing.sample_ratio is 1.5; it should be less than or equal to 1"),
        ({"sample_ratio": -1}, "it should be greater than or equal to 0"),
        ({"headers": ["hidden"]}, "tracing.headers should be a mapping"),
        ({"headers": {"a b": "hidden"}}, "a name in tracing.headers is not a header name"),
        ({"headers": {"Content-Type": "hidden"}}, "has Content-Type, which the exporter sets itself"),
        ({"headers": {"x-token": "hidden\n"}}, "the value of x-token should be printable ASCII text"),
        ({"headers": {"x-token": 7}}, "the value of x-token should be printable ASCII text"),
        ({"ca": "ca.pem"}, "tracing.ca needs an endpoint with https://"),
        ({"resource": {"a b": "c"}}, "a name in tracing.resource should be like"),
        ({"resource": {"a": [1]}}, "tracing.resource.a"),
        ({"sampling": 1}, 'unknown key "sampling" in tracing; did you mean "sample_ratio"?'),
    ],
)
def test_mistake_is_named(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    """In a sentence with the file's name and line, which shows nothing that may be a secret."""
    with pytest.raises(ConfigurationError) as failure:
        load(tmp_path, **keys)
    assert words in failure.value.message
    assert failure.value.message.startswith("models.yaml, line ")
    assert "hidden" not in failure.value.message


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ({}, f"{LOCAL}/v1/traces"),
        ({"endpoint": f"{LOCAL}/"}, f"{LOCAL}/v1/traces"),
        ({"endpoint": "https://a/otlp/v1/traces"}, "https://a/otlp/v1/traces"),
        ({"endpoint": "http://a:4317", "protocol": "grpc"}, "http://a:4317"),
    ],
)
def test_the_path_is_the_usual_one(tmp_path: Path, keys: dict[str, Any], url: str) -> None:
    """Unless the endpoint has one; gRPC has none."""
    tracing = load(tmp_path, **keys).tracing
    assert tracing is not None
    assert tracing.url == url


def test_ca_starts_at_the_file(tmp_path: Path) -> None:
    """As other paths do."""
    tracing = load(tmp_path, endpoint="https://a", ca="ca.pem").tracing
    assert tracing is not None
    assert tracing.ca == tmp_path / "ca.pem"


def test_headers_are_shown_nowhere(tmp_path: Path) -> None:
    """Not where settings are printed, nor where a change is refused, nor to other front ends of a cluster."""
    old = load(tmp_path, headers={"x-token": "hidden"})
    new = load(tmp_path, headers={"x-token": "hidden too"})
    with pytest.raises(ConfigurationError) as failure:
        check_changes(old, new)
    site = site_of(old, [64])
    assert "hidden" not in failure.value.message + repr(old) + str(old) + site.model_dump_json()


def test_front_ends_may_differ(tmp_path: Path) -> None:
    """Each sends its own traces, or none."""
    assert "tracing" not in site_of(load(tmp_path), [64]).settings


def test_workers_get_all_of_it(tmp_path: Path) -> None:
    """As the process that starts them has it, headers included."""
    settings = load(tmp_path, headers={"x-token": "t"}, resource={"a": 1, "b": True, "c": 0.5})
    there = Settings.model_validate_json(settings_text(settings))
    assert there.tracing == settings.tracing
    assert isinstance(there.tracing, Tracing)
