"""The configuration and its models, as the site will have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundle.models import checksums, model_files, read_configuration, refuse_multimodal
from bundle.wheels import sha256_of
from server.config.loading import load_settings
from server.engine.adapters import read_adapters
from server.engine.served import inspect
from server.errors import ConfigurationError
from tests.adapters import SHAPES, write_adapter, write_safetensors


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of one tensor without entries."""
    folder = tmp_path / "elsewhere" / "weights"
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": 10}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def config(tmp_path: Path, text: str) -> Path:
    (tmp_path / "models.yaml").write_text(text)
    return tmp_path / "models.yaml"


def test_paths_become_those_of_the_site(tmp_path: Path, weights: Path) -> None:
    """Comments and everything else stay as they are; the keys' file moves to where updates leave it alone."""
    text = (
        "# ours\nport: 1\napi_keys_file: secret/keys.txt # who\nmodels:\n  - id: a/b\n"
        "    path: elsewhere/weights # w\n"
    )
    found = read_configuration(config(tmp_path, text), {})
    changed = text.replace("secret/keys.txt", '"../../keys.txt"')
    changed = changed.replace("elsewhere/weights", '"models/a--b"')
    assert found.text == changed
    assert found.directories == {"models/a--b": weights}


def test_the_sites_configuration_loads_there(tmp_path: Path, weights: Path) -> None:
    """From an installed version's folder every path leads to what the installer put in place."""
    text = f"host: 0.0.0.0\napi_keys_file: k.txt\nmodels: [{{id: m, path: {weights}}}]\n"
    found = read_configuration(config(tmp_path, text), {})
    version = tmp_path / "site/versions/1"
    version.mkdir(parents=True)
    (version / "models.yaml").write_text(found.text)
    settings = load_settings(version / "models.yaml", {}, {})
    assert settings.models[0].directory == version / "models/m"
    assert settings.api_keys_file is not None
    assert settings.api_keys_file.resolve() == tmp_path / "site/k.txt"


def test_weights_that_the_engine_makes_up_are_not_missed(tmp_path: Path, weights: Path) -> None:
    """A model with `load_format: dummy` travels without weights; without that, it is refused."""
    (weights / "model.safetensors").unlink()
    text = f"models: [{{id: m, path: {weights}%s}}]\n"
    with pytest.raises(ConfigurationError, match="no weights"):
        read_configuration(config(tmp_path, text % ""), {})
    found = read_configuration(config(tmp_path, text % ", engine_args: {load_format: dummy}"), {})
    assert list(model_files(found.directories["models/m"])) == ["config.json", "tokenizer.json"]


def test_a_host_for_others_needs_no_key_yet(tmp_path: Path, weights: Path) -> None:
    """Keys are made at the site, so that a configuration without one can be bundled."""
    text = f"host: 0.0.0.0\nmodels: [{{id: m, path: {weights}}}]\n"
    assert read_configuration(config(tmp_path, text), {}).text.startswith("host: 0.0.0.0")


def test_a_shared_path_is_refused_where_it_cannot_be_written(tmp_path: Path, weights: Path) -> None:
    """A YAML anchor names one place, and two models have two."""
    text = f"models:\n  - {{id: a, path: &p {weights}}}\n  - {{id: b, path: *p}}\n"
    with pytest.raises(ConfigurationError, match="write out each path"):
        read_configuration(config(tmp_path, text), {})


def test_two_models_need_two_places(tmp_path: Path, weights: Path) -> None:
    """Ids that become one name are told: one model's files would be the other's."""
    for other in ("a--b", "A/b"):
        text = f"models:\n  - {{id: a/b, path: {weights}}}\n  - {{id: {other}, path: {weights}}}\n"
        with pytest.raises(ConfigurationError, match="would get the same directory"):
            read_configuration(config(tmp_path, text), {})


@pytest.fixture
def base(weights: Path) -> Path:
    """A model that adapters fit."""
    write_safetensors(weights / "model.safetensors", {f"{name}.weight": SHAPES[name] for name in SHAPES})
    return weights


def test_adapters_travel_with_their_model(tmp_path: Path, base: Path) -> None:
    """Their paths become those of the site, where they load and are compared with what was bundled."""
    adapter = write_adapter(tmp_path / "tone")
    (adapter / "optimizer.pt").write_bytes(b"of the training")
    text = f"models:\n  - id: m\n    path: {base}\n    adapters:\n      - {{id: o/tone, path: tone}} # mine\n"
    found = read_configuration(config(tmp_path, text), {})
    assert '- {id: o/tone, path: "models/o--tone"} # mine' in found.text
    assert found.directories == {"models/m": base, "models/o--tone": adapter}
    refuse_multimodal(found)
    sums = checksums(adapter, {}, sha256_of)
    assert set(sums) == {"adapter_config.json", "adapter_model.safetensors"}
    for place, directory in found.directories.items():
        for name in model_files(directory):
            (tmp_path / "site" / place / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "site" / place / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "site/models/o--tone/checksums.json").write_text(json.dumps(sums))
    (tmp_path / "site/models.yaml").write_text(found.text)
    (model,) = load_settings(tmp_path / "site/models.yaml", {}, {}).models
    assert [*read_adapters(model, inspect(model)[0])] == ["o/tone"]


def test_an_adapter_brings_what_its_checksums_name(tmp_path: Path, base: Path) -> None:
    """Nothing that is compared at the site is missing there; an altered file gets into no bundle."""
    adapter = write_adapter(tmp_path / "tone")
    (adapter / "README.md").write_text("a")
    listed = {path.name: sha256_of(path) for path in adapter.iterdir()}
    (adapter / "checksums.json").write_text(json.dumps(listed))
    assert set(checksums(adapter, {}, sha256_of)) == {*listed, "checksums.json"}
    text = f"models: [{{id: m, path: {base}, adapters: [{{id: tone, path: tone}}]}}]\n"
    (adapter / "README.md").write_text("b")
    with pytest.raises(ConfigurationError, match=r"adapter tone: .*README\.md is not the expected file"):
        read_configuration(config(tmp_path, text), {})


def test_an_adapter_of_another_model(tmp_path: Path, weights: Path) -> None:
    """Is refused where the bundle is made, not at the site."""
    write_adapter(tmp_path / "tone")
    text = f"models: [{{id: m, path: {weights}, adapters: [{{id: tone, path: tone}}]}}]\n"
    write_safetensors(weights / "model.safetensors", {"another.weight": (1, 1)})
    with pytest.raises(ConfigurationError, match="the model has no such module"):
        read_configuration(config(tmp_path, text), {})


def test_an_adapter_needs_a_place_of_its_own(tmp_path: Path, base: Path) -> None:
    """As a model does."""
    write_adapter(tmp_path / "tone")
    text = f"models: [{{id: m, path: {base}, adapters: [{{id: M, path: tone}}]}}]\n"
    with pytest.raises(ConfigurationError, match="would get the same directory"):
        read_configuration(config(tmp_path, text), {})


def test_a_model_that_is_not_prepared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that prepares it."""
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigurationError, match="make setup"):
        read_configuration(config(tmp_path, "models: [{id: a, builtin: smollm2-135m-instruct}]"), {})


def test_a_model_that_sees_or_hears_needs_the_full_profile(tmp_path: Path, weights: Path) -> None:
    """Text leaves out what pictures need."""
    found = read_configuration(config(tmp_path, f"models: [{{id: a, path: {weights}}}]"), {})
    refuse_multimodal(found)
    (weights / "config.json").write_text('{"vision_config": {}, "text_config": {"kv_lora_rank": 1}}')
    with pytest.raises(ConfigurationError, match="--profile full"):
        refuse_multimodal(found)
    assert {"vision_config", "kv_lora_rank"} <= found.model_keys


def test_what_a_model_brings(weights: Path) -> None:
    """Subfolders too, but no pickles, which the server never reads, and nothing hidden."""
    for name in ("sub/x.json", ".git/config", "pytorch_model.bin", "original/x.pth", ".cache"):
        (weights / name).parent.mkdir(exist_ok=True)
        (weights / name).write_text("x")
    assert list(model_files(weights)) == ["config.json", "model.safetensors", "sub/x.json", "tokenizer.json"]


def test_altered_weights_do_not_get_into_a_bundle(weights: Path) -> None:
    """What checksums.json or the configuration says has to be true."""
    sums = checksums(weights, {}, sha256_of)
    assert set(sums) == {"config.json", "model.safetensors", "tokenizer.json"}
    (weights / "checksums.json").write_text(json.dumps(sums))
    assert checksums(weights, {}, sha256_of).items() >= sums.items()
    for wrong in ({"model.safetensors": "0" * 64}, {"gone.safetensors": "0" * 64}):
        with pytest.raises(ConfigurationError, match="is not the expected file"):
            checksums(weights, wrong, sha256_of)
