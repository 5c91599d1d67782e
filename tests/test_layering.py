from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bundle", "conform", "sampling", "sealed", "server", "twin")
MAX_LINES = 320
STANDARD = sys.stdlib_module_names

# The rooms, and in each its files, in reading order: a room imports only from rooms above it in this list, a
# file only from files above it. A room is a folder; its __init__ says in a sentence what belongs there.
ROOMS = {
    "sealed": "failures ed25519 files manifest payload signature installation",
    "bundle.site": "console packages target install cli",
    "sampling": (
        "noise reference params batch draws staging asked_logprobs bans transforms choice kernels"
        " draw_kernels ban_kernels launcher slots best_of"
        " runner_v1 speculative_v1 runner_v2 speculative_v2"
    ),
    "server": "errors pip ticks",
    "server.weights": "builtin architecture checkpoint sizes adapters",
    "server.config": (
        "values patterns yamlfile engine_args sections replication adapters tracing model groups settings"
        " loading directories changes"
    ),
    "server.text": "files tables encoding encoder fill_in grammars tokenizer long detokenizer stops",
    "server.contract": "request tokens admin reply unsupported structured values params",
    "server.observe": "events logs versions stalls trail spans exporting tracing attestation",
    "server.access": "terms keys memory tallies elsewhere limits",
    "server.engine": (
        "base ticket turns trials prefixes replica suspects router waits work group loads losses residence"
        " sleepers supervisor replicas admission handover scaling adapters"
    ),
    "server.engine.simulated": "engine",
    "server.engine.vllm": (
        "warmup wire translate failures cpu_blocks speculation devices size processes pulse layers standby"
        " grammars cpu_lora adapters host exchange link hub channel stats running client engine attached"
    ),
    "server.engine.ray": "messages site actor keeper seats agent node",
    "server.engine.served": "",  # a file, above the engines: which of them a model gets
    "server.engine.fit": "",  # a file too: whether a model has room
    "server.generation": "logprobs outputs prompts grammars contest scores candidates",
    "server.journal": "entry redaction scrubber counts files writer reading filters usage",
    "server.page": "",  # what a browser gets, without a line of Python
    "server.http": (
        "eager entrance sse metricsfile metrics following journaling state spans failures ratelimits"
        " connections expiry certificates handshake writer cycle protocol disconnect body"
        " gathering streaming cors page documents records paths border openapi routes tokens admin adapters"
        " details app"
    ),
    "server.process": (
        "descriptors unixsocket port adminport greeting adopted workers attached control worker scaling"
        " shares groups models reload cluster node serve"
    ),
    "server.client": "failure trust endpoint printer complete",
    "server.commands": "progress check checksums matching init here models health journal replay",
    "server.cli": "",  # a file, above all of the server
    "twin.language": "ngrams model store",
    "twin.faults": "fault answers cuts pace edits ports catalog rules wire transport connection listener app",
    "twin.verdict": "attempt eyes connection rules report app",
    "twin.recordings": "exchange redaction writing reading",
    "twin.watch": "edge proxy replay serve cli",
    "twin": "latency scripted sampler engine models serve cli plugin",
    "conform.subject": "ends budget frames client address sockets server refusal rule",
    "conform.rules": (
        "table profiles values body reply prompts stops logprobs choices sampling structured stream folds"
        " errors http adapters wire"
    ),
    "conform": "every runner report difference cli",
    "bundle": "models order wheels contents sbom keys seal make cli",
}
ROOM_OF = {
    name: room
    for room, files in ROOMS.items()
    for name in (room, *(f"{room}.{file}" for file in files.split()))
}
ORDER = tuple(ROOM_OF)

# Imports of our own inside a function, and why they are there.
LATE = {
    ("sampling.runner_v2", "sampling.kernels"),  # Triton and torch, which the class's readers do without
    ("sampling.runner_v2", "sampling.draw_kernels"),
    ("sampling.runner_v2", "sampling.ban_kernels"),
    ("sampling.runner_v2", "sampling.slots"),
    ("server.http.app", "server.observe.tracing"),  # OpenTelemetry's SDK, which is an extra
    ("server.cli", "server.process.node"),  # the same
    ("server.cli", "server.process.serve"),  # half a second of imports that no other command needs
    ("twin.cli", "twin.serve"),  # the same
    ("twin.cli", "twin.faults.rules"),
    *(("twin.watch.cli", f"twin.watch.{name}") for name in ("proxy", "replay", "serve")),
    *(("twin.watch.cli", f"twin.recordings.{name}") for name in ("reading", "writing")),
    ("bundle.cli", "bundle.make"),  # packages that a site does without
    ("bundle.cli", "bundle.keys"),
}

# Ray is an extra, so a server without it imports none of these: they run in processes that Ray has, or
# in the agent's.
RAY_IN = {
    "server.engine.ray.actor",
    "server.engine.ray.agent",
    "server.engine.ray.keeper",
    "server.engine.ray.node",
}

# vLLM's inner interfaces change with every version: whoever raises the version reads these.
VLLM_IN = {
    "sampling.runner_v1",
    "sampling.runner_v2",
    "sampling.speculative_v1",
    "sampling.speculative_v2",
    "server.engine.vllm.adapters",
    "server.engine.vllm.cpu_blocks",
    "server.engine.vllm.grammars",
    "server.engine.vllm.host",
}


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that an import statement names; a name imported from a package may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in inner if name in ORDER]
        yield from modules
        if len(modules) < len(inner):
            yield str(node.module)


def imports_of(tree: ast.AST) -> Iterator[str]:
    return (name for node in ast.walk(tree) for name in imported(node))


def is_ours(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


def test_every_module_has_a_place() -> None:
    """The reading order names every module of the packages once, and none that is gone."""
    files = (file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    found = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert sorted(ORDER) == sorted(found)


def test_rooms_stand_on_those_above() -> None:
    """A room imports only from rooms above it in the list: no arrow runs back, so none goes in a circle."""
    rooms = list(ROOMS)
    arrows = {
        (ROOM_OF[module], ROOM_OF[name])
        for module in ORDER
        for name in imports_of(tree_of(module))
        if is_ours(name) and name not in PACKAGES
    }
    assert {(room, other) for room, other in arrows if rooms.index(other) > rooms.index(room)} == set()


@pytest.mark.parametrize("module", ORDER)
def test_files_stand_on_those_above(module: str) -> None:
    """A file imports only from files above it in the list."""
    above = ORDER[: ORDER.index(module)]
    assert [name for name in imports_of(tree_of(module)) if is_ours(name) and name not in above] == []


@pytest.mark.parametrize("room", [room for room, files in ROOMS.items() if files])
def test_a_room_says_what_belongs_there(room: str) -> None:
    """The __init__ of a room is its sentence, and nothing else."""
    (sentence,) = tree_of(room).body[:1]
    assert isinstance(sentence, ast.Expr)
    assert room == "server" or len(tree_of(room).body) == 1


def test_no_late_imports() -> None:
    """No function imports our own code, but for the exceptions that are named."""
    found = {
        (module, name)
        for module in ORDER
        for function in ast.walk(tree_of(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in imports_of(function)
        if is_ours(name)
    }
    assert found == LATE


def test_few_know_vllm() -> None:
    """vLLM is imported in the named files alone."""
    roots = {module: {name.split(".")[0] for name in imports_of(tree_of(module))} for module in ORDER}
    assert {module for module, names in roots.items() if "vllm" in names} == VLLM_IN


def test_few_know_ray() -> None:
    """Ray is imported in the named files alone, and no other file of ours imports one of them."""
    roots = {module: {name.split(".")[0] for name in imports_of(tree_of(module))} for module in ORDER}
    assert {module for module, names in roots.items() if "ray" in names} == RAY_IN
    users = {module for module in ORDER if RAY_IN.intersection(imports_of(tree_of(module)))}
    assert users <= RAY_IN


def test_the_installer_needs_nothing() -> None:
    """What runs at a site before anything is installed imports the standard library, and itself, alone."""
    site = [module for module in ORDER if module.startswith(("bundle.site", "sealed")) or module == "bundle"]
    for module in site:
        outside = {name for name in imports_of(tree_of(module)) if name.split(".")[0] not in STANDARD}
        assert outside <= set(site)


def test_what_is_sealed_stands_on_nothing() -> None:
    """sealed/ is the ground: the server, the installer and what makes bundles all import it."""
    for module in (name for name in ORDER if ROOM_OF[name] == "sealed"):
        assert {name.split(".")[0] for name in imports_of(tree_of(module))} <= {*STANDARD, "sealed"}


def test_the_server_knows_no_bundle() -> None:
    """Nor any other package above it: their commands are found by entry points. So no engine has faults."""
    for module in (name for name in ORDER if name.startswith(("server", "sampling"))):
        roots = {name.split(".")[0] for name in imports_of(tree_of(module))}
        assert not {"bundle", "conform", "scripts", "twin"} & roots


def test_the_rules_know_no_server() -> None:
    """conform/ is a client like any other: it uses nothing of ours, and no framework of the server's."""
    for module in (name for name in ORDER if name.startswith("conform")):
        outside = {name.split(".")[0] for name in imports_of(tree_of(module))} - STANDARD
        assert outside <= {"conform", "httpx", "rich", "typer"}


def test_the_server_starts_light() -> None:
    """No module of the server imports vLLM or torch, which take seconds: functions do when they need them."""
    for module in ORDER[ORDER.index("server") :]:
        top_level = (name for node in tree_of(module).body for name in imported(node))
        assert not {"vllm", "torch", "transformers"}.intersection(name.split(".")[0] for name in top_level), (
            module
        )


@pytest.mark.parametrize("module", ORDER)
def test_files_are_short(module: str) -> None:
    """A file is read in one go."""
    assert len(path_of(module).read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_bytes_are_made_in_one_place() -> None:
    """Nothing but sse.py frames events, and nothing below the contract knows of HTTP."""
    below = ORDER[ORDER.index("server") : ORDER.index("server.http")]
    for module in below:
        roots = {name.split(".")[0] for name in imports_of(tree_of(module))}
        assert not roots & {"fastapi", "starlette", "uvicorn"}, module
    framing = {module for module in ORDER if 'b"data: "' in path_of(module).read_text(encoding="utf-8")}
    assert framing <= {"server.http.sse", "server.client.endpoint"}
