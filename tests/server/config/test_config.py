from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from server.config.loading import (
    BestOf,
    Defaults,
    KeyGroup,
    Limits,
    ModelSettings,
    RateLimits,
    Settings,
    load_settings,
)
from server.config.replication import Replication
from server.config.sections import TLS, AdminPort
from server.config.tracing import Tracing
from server.errors import ConfigurationError

REPOSITORY = Path(__file__).parents[3]
ONE = "models:\n  - id: a\n    path: weights\n"


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: object) -> Settings:
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, flags, environ or {})


def refusal(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, environ, **flags)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_shipped_file_serves_the_builtin_model() -> None:
    """The models.yaml of the repository loads and serves the built-in model."""
    settings = load_settings(REPOSITORY / "models.yaml", {}, {})
    assert [model.builtin for model in settings.models] == ["smollm2-135m-instruct"]


def test_no_file_is_the_builtin_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file anywhere the built-in model is served, with every default."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {}, {})
    assert (settings.port, settings.models[0].id) == (8000, "smollm2-135m-instruct")


def test_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A models.yaml in the working directory is used when no other is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.yaml").write_text(ONE)
    assert load_settings(None, {}, {}).models[0].id == "a"


def test_environment_names_the_file(tmp_path: Path) -> None:
    """VERBATIM_CONFIG names the file."""
    (tmp_path / "other.yaml").write_text(ONE)
    assert load_settings(None, {}, {"VERBATIM_CONFIG": str(tmp_path / "other.yaml")}).models[0].id == "a"


@pytest.mark.parametrize(
    ("flags", "environ", "port"),
    [
        ({"port": 1}, {"VERBATIM_PORT": "2"}, 1),
        ({"port": None}, {"VERBATIM_PORT": "2"}, 2),
        ({}, {"VERBATIM_PORT": ""}, 3),
    ],
)
def test_precedence(tmp_path: Path, flags: dict[str, object], environ: dict[str, str], port: int) -> None:
    """A flag goes before the environment, the environment before the file; empty is not set."""
    assert load(tmp_path, "port: 3\n" + ONE, environ, **flags).port == port


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            ONE + "    max_modl_len: 1\n",
            'line 4: unknown key "max_modl_len" in a model; did you mean "max_model_len"?',
        ),
        ("prot: 1\n" + ONE, 'line 1: unknown key "prot" at the top level; did you mean "port"?'),
        (
            ONE + "    defaults:\n      topp: 1\n",
            'line 5: unknown key "topp" in defaults; did you mean "top_p"?',
        ),
        ("zzz: 1\n" + ONE, "known are host, port,"),
        ("port: '1'\n" + ONE, 'line 1: port is "1"; it should be a valid integer.'),
        ("port: true\n" + ONE, "line 1: port is true; it should be a valid integer."),
        ("port: 70000\n" + ONE, "line 1: port is 70000; it should be less than or equal to 65535."),
        (ONE + "    dtype: int3\n", "line 4: models.dtype is \"int3\"; it should be 'auto'"),
        (ONE + "    defaults: {temperature: .nan}\n", "line 4: models.defaults.temperature is NaN;"),
        (
            ONE + "    replicas: 2\n    devices: [0]\n",
            "lists 1 devices, but tensor_parallel_size × pipeline_parallel_size is 1, times 2 replicas",
        ),
        (ONE + "    replicas: 2\n    devices: [[0], [0]]\n", "lists a device twice"),
        (ONE + "    replicas: 3\n    devices: [[0], [1]]\n", "has 2 lists of devices for 3 replicas"),
        (
            ONE + "    replicas: 0\n",
            "models.replicas.min is 0; it should be greater than or equal to 1",
        ),
        (
            ONE + "    replicas: {min: 3, max: 2}\n",
            "line 4: replicas has min 3 and max 2; max must be at least min.",
        ),
        (
            ONE + "    replicas: 2\n    min_ready: 3\n",
            (
                'line 5: model "a" has a min_ready of 3, but may run as few as 2 replicas; set min_ready to'
                " at"
                " most that."
            ),
        ),
        (ONE + "    devices: [0, x]\n", 'line 4: models.devices is "x"; it should be a valid integer.'),
        (
            ONE + "    sha256: {a: b}\n",
            'line 4: models.sha256.a is "b"; it should be a SHA-256, which is 64 hexadecimal digits.',
        ),
        (
            "models:\n  - {id: my model, path: weights}\n",
            'line 2: models.id is "my model"; it should be 1 to 200 characters without spaces or control',
        ),
        ("models:\n  - {id: '', path: weights}\n", 'models.id is ""; it should be 1 to 200 characters'),
        (ONE + "    allowed_keys: [a b]\n", 'models.allowed_keys is "a b"; it should be 1 to 200 characters'),
        ("cors_origins: ['https://a.example/']\n" + ONE, "it should be an origin as browsers send it"),
        ("cors_origins: ['*']\n" + ONE, "line 1: cors_origins is * but there is no API key"),
        (
            "host: ''\n" + ONE,
            'line 1: host is ""; it should be an address, a name, or unix:PATH of at most 107 bytes',
        ),
        (ONE + "    path: more\n", 'line 4: "path" is already set in line 3.'),
        (ONE + "  - id: a\n    path: b\n", 'line 4: two models have the id "a"'),
        (ONE + "    builtin: smollm2-135m-instruct\n", "needs either path or builtin, not both"),
        ("models:\n  - id: a\n", 'line 2: model "a" needs either path or builtin.'),
        ("models:\n  - path: a\n", 'line 2: the key "id" is missing in a model.'),
        ("models:\n  - id: a\n    builtin: smollm2-135m\n", 'did you mean "smollm2-135m-instruct"?'),
        ("models: []\n", "line 1: models is []; it should have at least one entry."),
        ("port: 1\n", 'the key "models" is missing at the top level.'),
        (ONE + "    engine_args:\n      dtype: auto\n", 'line 5: set "dtype" as a key of the model'),
        (
            ONE + "    suffix_template: '{prefix}'\n",
            "line 4: suffix_template must contain {prefix} and {suffix}",
        ),
        (
            ONE + "    devices: [0, 1]\n",
            "lists 2 devices, but tensor_parallel_size × pipeline_parallel_size is 1",
        ),
        ("api_keys: [x]\n" + ONE, "line 1: API keys are not allowed in this file"),
        ("", "models.yaml is empty"),
        ("- a\n", "line 1: the file must consist of keys with values"),
        ("models: [\n", "line 2: this is not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("? [a]\n: 1\n", "line 1: this is not valid YAML"),
        ("a: 2026-99-99\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "line 1: this is not valid YAML"),
    ],
)
def test_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    """A mistake is one sentence with file, line, key and what would be right."""
    message = refusal(tmp_path, text)
    assert words in message
    assert message.startswith("models.yaml")
    assert "pattern" not in message


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        (
            {"VERBATIM_PORT": "tcp://10.0.0.1:80"},
            {},
            'VERBATIM_PORT: port is "tcp://10.0.0.1:80"; it should be',
        ),
        ({}, {"drain_timeout_s": -1.0}, "--drain-timeout: drain_timeout_s is -1.0; it should be"),
    ],
)
def test_mistake_outside_the_file(
    tmp_path: Path, environ: dict[str, str], flags: dict[str, object], words: str
) -> None:
    """A wrong variable or flag is named itself, not the file."""
    assert refusal(tmp_path, ONE, environ, **flags).startswith(words)


def test_further_mistakes_are_counted(tmp_path: Path) -> None:
    """The first mistake is explained and the rest counted."""
    assert refusal(tmp_path, "port: x\nhost: 1\n" + ONE).endswith("There is one more problem.")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is not there, or is not text, is named."""
    with pytest.raises(ConfigurationError, match=r"cannot read .*none\.yaml: No such file"):
        load_settings(tmp_path / "none.yaml", {}, {})
    (tmp_path / "latin.yaml").write_bytes(b"host: \xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(tmp_path / "latin.yaml", {}, {})


@pytest.mark.parametrize("host", ["192.0.2.1", "::", "192.168.1.2", "example.org"])
def test_other_hosts_need_a_key(tmp_path: Path, host: str) -> None:
    """Without any key only loopback can be bound, and the refusal says how to make a key."""
    message = refusal(tmp_path, ONE, host=host)
    assert message.startswith("--host: ")
    assert "verbatim keys new" in message
    assert load(tmp_path, ONE, {"VERBATIM_API_KEYS": "k"}, host=host).host == host
    assert load(tmp_path, f"api_keys_file: k\n{ONE}", host=host).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(tmp_path: Path, host: str) -> None:
    """Loopback can be bound without a key."""
    assert load(tmp_path, ONE, host=host).host == host


def test_groups_of_keys(tmp_path: Path) -> None:
    """What a group does not say is None; keys of the environment can be in one."""
    settings = load(tmp_path, ONE + "key_groups:\n  slow: {weight: 0.5, keys: [key-1]}\n")
    assert settings.key_groups == {"slow": KeyGroup(weight=0.5, keys=("key-1",))}


def test_admin_port_for_everyone(tmp_path: Path) -> None:
    """It needs keys where other machines reach it, as the port does."""
    assert load(tmp_path, f"admin: {{port: 9000}}\n{ONE}").admin == AdminPort(port=9000)
    assert "admin.host is 0.0.0.0 but there is no API key" in refusal(
        tmp_path, f"admin: {{host: 0.0.0.0, port: 9000}}\n{ONE}"
    )


def test_unix_socket(tmp_path: Path) -> None:
    """It needs no key, and its path starts at the file."""
    assert load(tmp_path, f"host: unix:run/s.sock\n{ONE}").host == f"unix:{tmp_path}/run/s.sock"
    assert load(tmp_path, f"host: unix:/run/s.sock\n{ONE}").host == "unix:/run/s.sock"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("host: 'unix:'", 'host is "unix:"; it should be an address, a name, or unix:PATH'),
        ("socket_mode: 0660", 'it should be octal digits in quotes, "660"'),
        ('socket_mode: "680"', 'it should be three octal digits in quotes, "660"'),
    ],
)
def test_unix_socket_that_is_wrong(tmp_path: Path, line: str, words: str) -> None:
    """Is refused in words."""
    assert words in refusal(tmp_path, f"{line}\n{ONE}")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("a: {wieght: 1}", 'line 5: unknown key "wieght" in a group of key_groups; did you mean "weight"?'),
        ("a: {roles: [root]}", "line 5: key_groups.a.roles is \"root\"; it should be 'infer' or 'admin'."),
        (
            "a: {roles: [admin], keys: [anonymous]}",
            "anonymous, which is any client without a key, cannot be an admin",
        ),
        ("a: {weight: 0}", "line 5: key_groups.a.weight is 0; it should be greater than or equal to 0.01."),
        ("a: {keys: [k]}\n  b: {keys: [k]}", 'line 6: the key "k" is in two groups, a and b.'),
        ("a b: {}", "a name of letters, digits"),
    ],
)
def test_groups_that_are_wrong(tmp_path: Path, groups: str, words: str) -> None:
    """Are refused with their line."""
    assert words in refusal(tmp_path, f"{ONE}key_groups:\n  {groups}\n")


def test_keys_of_the_environment(tmp_path: Path) -> None:
    """VERBATIM_API_KEYS is split at commas, and its keys appear in no printed settings."""
    settings = load(tmp_path, ONE, {"VERBATIM_API_KEYS": " one, two ,"})
    assert settings.api_keys == ("one", "two")
    assert "two" not in repr(settings) + settings.model_dump_json()


def test_paths_start_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in the file starts at the file, one in a flag or a variable at the working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = "api_keys_file: k\n" + ONE
    assert load(tmp_path, text).models[0].directory == tmp_path / "weights"
    assert load(tmp_path, text).api_keys_file == tmp_path / "k"
    assert load(tmp_path, text, api_keys_file=Path("k")).api_keys_file == tmp_path / "here" / "k"


def test_title_is_the_id(tmp_path: Path) -> None:
    """A model without a title is shown by its id."""
    assert load(tmp_path, ONE).models[0].title == "a"


def test_settings_are_frozen(tmp_path: Path) -> None:
    """Nothing changes the settings after the start."""
    with pytest.raises(ValidationError):
        load(tmp_path, ONE).port = 1


def test_integer_is_a_number(tmp_path: Path) -> None:
    """A key that takes a number takes an integer as well."""
    assert load(tmp_path, ONE + "    defaults: {temperature: 0}\n").models[0].defaults.temperature == 0


def test_merge_keys_and_anchors(tmp_path: Path) -> None:
    """YAML's anchors and merges work, so that models can share settings."""
    settings = load(tmp_path, ONE + "    defaults: &d {top_k: 5}\n  - {id: b, path: c, defaults: {<<: *d}}\n")
    assert settings.models[1].defaults.top_k == 5


def test_engine_args_are_passed_through(tmp_path: Path) -> None:
    """What stands under engine_args is not looked at, lists and mappings included."""
    settings = load(tmp_path, ONE + "    engine_args: {a: [1, {b: null}]}\n")
    assert settings.models[0].engine_args == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "model", [Settings, TLS, AdminPort, Tracing, RateLimits, ModelSettings, BestOf, Defaults, Limits]
)
def test_shipped_file_explains_every_key(model: type[BaseModel]) -> None:
    """Each key stands in the shipped models.yaml, and one that is commented out shows its default."""
    lines = (REPOSITORY / "models.yaml").read_text(encoding="utf-8").splitlines()
    bare = [line.strip().removeprefix("#").strip().removeprefix("- ") for line in lines]
    commented = [line.strip().startswith("#") for line in lines]
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        places = [i for i, line in enumerate(bare) if line == f"{name}:" or line.startswith(f"{name}: ")]
        # The key's own line is the last: prose before it may start with the same word.
        assert places, name
        if commented[places[-1]] and bare[places[-1]] != f"{name}:" and not field.is_required():
            shown = yaml.safe_load(bare[places[-1]])[name]
            if isinstance(field.default, Replication):  # a number is short for it
                shown = Replication.model_validate(shown)
            assert shown == (list(field.default) if isinstance(field.default, tuple) else field.default), name


@pytest.mark.parametrize("name", ["a", "b"])
def test_adapters_have_ids_of_their_own(tmp_path: Path, name: str) -> None:
    """No other adapter and no model has the same: clients could not tell them apart."""
    adapters = f"    adapters:\n      - {{id: b, path: x}}\n      - {{id: {name}, path: y}}\n"
    message = refusal(tmp_path, ONE + adapters)
    assert f'line 6: the adapter has the id "{name}", which' in message


def test_an_adapters_path_starts_at_the_file(tmp_path: Path) -> None:
    """As a model's does."""
    settings = load(tmp_path, ONE + "    adapters: [{id: b, path: x}]\n")
    assert settings.models[0].adapters[0].path == tmp_path / "x"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("groups:\n  g: {models: [b]}\n", 'line 5: there is no model "b"; known are a'),
        ("groups:\n  g: {models: [a]}\n", "no model of the group g can make room for another"),
        ("    unload_after_s: 3\n", 'line 4: model "a" has unload_after_s, but is loaded at the start'),
        ("    load: on_demand\n    replicas: {min: 1, max: 2}\n", "a fixed number of replicas"),
        (
            "    load: on_demand\nworkers: 2\n",
            'line 5: model "a" is loaded on demand, which works only with one process',
        ),
        (
            "    load: on_demand\ncluster: auto\n",
            'line 4: model "a" is loaded on demand, which does not work in a cluster',
        ),
        (
            "    load: on_demand\n    size_gib: 9\ngroups:\n  g: {models: [a], memory_gib: 8}\n",
            'model "a" takes 9 GiB, but the group g has only 8 GiB (memory_gib)',
        ),
        (
            "    load: on_demand\ngroups:\n  g: {models: [a]}\n  h: {models: [a]}\n",
            'line 7: model "a" is in two groups',
        ),
    ],
)
def test_memory_that_could_not_be_shared(tmp_path: Path, more: str, message: str) -> None:
    """Is refused with the line and what to do."""
    assert message in refusal(tmp_path, ONE + more)
