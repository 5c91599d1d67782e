"""GET /attestation: what a server that attests says of itself, and what it refuses to start with."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from server.config.loading import load_settings
from server.config.settings import Settings
from server.errors import ConfigurationError, ServiceUnavailable
from server.http.app import build_app
from server.observe.attestation import Attestation, installation_root
from tests.adapters import write_adapter
from tests.helpers import running

KEY = {"authorization": "Bearer key"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model with a checksums.json."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / "checksums.json").write_text(json.dumps(sums))
    return folder


@pytest.fixture
def settings(tmp_path: Path, weights: Path) -> Settings:
    file = tmp_path / "models.yaml"
    file.write_text(f"attest: true\nmodels: [{{id: m, path: {weights}}}]\n")
    return load_settings(file, {}, {})


def completed(attestation: Attestation, settings: Settings) -> dict[str, Any]:
    attestation.start()
    for model in settings.models:
        attestation.verify_model(model)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            return attestation.document()
        except ServiceUnavailable:
            time.sleep(0.01)
    raise AssertionError("never complete")


def test_what_is_attested(tmp_path: Path, weights: Path, settings: Settings) -> None:
    """Versions, the configuration's digest and those of the files that decide about the text."""
    file = tmp_path / "models.yaml"
    document = completed(Attestation(settings, file, None), settings)
    assert list(document["versions"]) == ["verbatim", "python", "vllm", "torch"]
    assert document["configuration"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert document["models"] == {"m": json.loads((weights / "checksums.json").read_text())}
    assert document["installation"] is None


def test_a_flag_shows_in_the_effective_configuration(tmp_path: Path, settings: Settings) -> None:
    """The file is the same, what is in effect is not."""
    file = tmp_path / "models.yaml"
    other = load_settings(file, {"port": 1}, {})
    said = [completed(Attestation(one, file, None), one)["configuration"] for one in (settings, other)]
    assert said[0]["sha256"] == said[1]["sha256"]
    assert said[0]["effective_sha256"] != said[1]["effective_sha256"]


def test_altered_weights_stop_the_start(weights: Path, settings: Settings) -> None:
    """Before the engine loads them."""
    (weights / "model.safetensors").write_bytes(b"altered")
    with pytest.raises(ConfigurationError, match=r"model\.safetensors is not the expected file"):
        Attestation(settings, None, None).verify_model(settings.models[0])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_without_a_digest_stops_the_start(weights: Path, settings: Settings, name: str) -> None:
    """Nothing could be said of it."""
    sums = json.loads((weights / "checksums.json").read_text())
    del sums[name]
    (weights / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(ConfigurationError, match=f"no digest is known for .*{name}"):
        Attestation(settings, None, None).verify_model(settings.models[0])


def test_adapters_are_attested_too(tmp_path: Path, weights: Path) -> None:
    """Under their own ids; one without digests stops the start."""
    adapter = write_adapter(tmp_path / "adapter")
    names = ("adapter_config.json", "adapter_model.safetensors")
    own = {name: hashlib.sha256((adapter / name).read_bytes()).hexdigest() for name in names}
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights.iterdir()}
    model = {"id": "m", "path": weights, "sha256": digests}
    sections = [{"id": "a", "path": adapter, "sha256": own}]
    settings = Settings.model_validate({"models": [model | {"adapters": sections}], "attest": True})
    attestation = Attestation(settings, None, None)
    attestation.verify_model(settings.models[0])
    assert attestation._models["a"] == own
    sections[0]["sha256"] = {}
    settings = Settings.model_validate({"models": [model | {"adapters": sections}], "attest": True})
    with pytest.raises(ConfigurationError, match=r"no digest is known for .*adapter_config\.json"):
        attestation.verify_model(settings.models[0])


def test_a_checkout_is_no_installation() -> None:
    """Nothing of an installation is claimed where there is none."""
    assert installation_root() is None


@pytest.fixture
def guarded(tmp_path: Path, weights: Path) -> Settings:
    """Settings with a key, and attest from the environment."""
    (tmp_path / "c.yaml").write_text(f"models: [{{id: m, path: {weights}}}]\n")
    return load_settings(tmp_path / "c.yaml", {}, {"VERBATIM_API_KEYS": "key", "VERBATIM_ATTEST": "true"})


async def test_it_is_behind_a_key(guarded: Settings) -> None:
    """With a wrong one it is a 401, as on the other routes; with the right one the document."""
    attestation = Attestation(guarded, None, None)
    document = completed(attestation, guarded)
    async with running(build_app(guarded, [], attestation=attestation)) as client:
        wrong = await client.get("/attestation", headers={"authorization": "Bearer wrong"})
        right = await client.get("/attestation", headers=KEY)
    assert (wrong.status_code, right.status_code) == (401, 200)
    assert right.json() == document


async def test_it_is_complete_or_not_there(guarded: Settings) -> None:
    """While something is still being looked at the reply is a 503 that says what."""
    async with running(build_app(guarded, [], attestation=Attestation(guarded, None, None))) as client:
        early = await client.get("/attestation", headers=KEY)
    assert early.status_code == 503
    assert "still verifying m, the installation" in early.json()["message"]


async def test_without_the_key_in_the_configuration_there_is_none(tmp_path: Path, weights: Path) -> None:
    """`attest: false`, the default: a 404 that says how to turn it on."""
    (tmp_path / "c.yaml").write_text(f"models: [{{id: m, path: {weights}}}]\n")
    async with running(build_app(load_settings(tmp_path / "c.yaml", {}, {}), [])) as client:
        reply = await client.get("/attestation", headers=KEY)
    assert reply.status_code == 404
    assert "attest: true" in reply.json()["message"]
