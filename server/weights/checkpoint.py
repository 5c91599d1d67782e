"""Checks a model directory without loading it: whether all files are there, complete, and unchanged.

Finding a damaged file here takes a second; in the engine it takes a minute and ends in a worker's traceback.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from server.errors import ConfigurationError
from server.weights.architecture import Architecture, read_architecture, read_json

Report = Callable[[str, int, int], None]  # file name, bytes done, bytes in total

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
READ_BYTES = 1 << 20
CHECKSUMS = "checksums.json"


class Tensor(NamedTuple):
    """dtype: safetensors' name, such as BF16."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a directory. weights: the files, of num_bytes together. tensors: those in the
    files, by name."""

    directory: Path
    architecture: Architecture
    weights: tuple[Path, ...]
    num_bytes: int
    tensors: dict[str, Tensor]


def check_checkpoint(directory: Path, *, weights: bool = True) -> Checkpoint:
    """Check everything except checksums, which take time. Without `weights`: only tokenizer and config.json.
    Raises ConfigurationError."""
    if not directory.is_dir():
        raise ConfigurationError(f"the model directory {directory} does not exist.")
    architecture = read_architecture(directory)
    if not (directory / "tokenizer.json").is_file():
        raise ConfigurationError(
            f"{directory} has no tokenizer.json. Make one from a slow tokenizer with transformers:"
            " AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)."
        )
    files = weight_files(directory) if weights else ()
    tensors = {name: tensor for file in files for name, tensor in check_safetensors(file).items()}
    return Checkpoint(directory, architecture, files, sum(file.stat().st_size for file in files), tensors)


def weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files, with every shard that the index lists."""
    found = tuple(sorted(directory.glob("*.safetensors")))
    for index in sorted(directory.glob("*.safetensors.index.json")):
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ConfigurationError(f"{index} has no weight_map of tensor names to file names.")
        present = {file.name for file in found}
        missing = sorted(set(shards.values()) - present)
        if missing:
            raise ConfigurationError(
                f"{directory} lacks {len(missing)} of {len(set(shards.values()))} weight files that"
                f" {index.name} lists, such as {missing[0]}. Copy or download them again."
            )
    if found:
        return found
    pickles = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickles:
        raise ConfigurationError(
            f"{directory} has pickle weights only ({pickles[0]}). Loading a pickle can run any code, so this"
            " server only reads safetensors. Convert it with transformers on a machine that you trust:"
            " AutoModelForCausalLM.from_pretrained(DIRECTORY).save_pretrained(NEW_DIRECTORY)."
        )
    raise ConfigurationError(f"{directory} has no weights: no *.safetensors file is in it.")


def check_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in the file's header, by name.

    The header's lengths must add up to the file's size: a truncated copy is found without reading
    it. Raises ConfigurationError.
    """
    size = path.stat().st_size
    damaged = f"{path} is damaged"
    again = "Copy or download it again."
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise ConfigurationError(
                    f"{damaged}: it has {size} bytes, too few for the header that it announces. Is it cut"
                    f" short, or a Git LFS pointer? {again}"
                )
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        tensors = {
            name: Tensor(str(entry.get("dtype")), tuple(map(int, entry.get("shape", ()))))
            for name, entry in entries.items()
        }
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"{damaged}: its header is not that of a safetensors file. {again}"
        ) from error
    if 8 + length + end != size:
        raise ConfigurationError(
            f"{damaged}: it has {size} bytes, but its header describes {8 + length + end}. {again}"
        )
    return tensors


def expected_checksums(directory: Path, configured: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 by file name: from checksums.json beside the weights, and from the
    configuration, which wins."""
    listed = read_json(directory / CHECKSUMS) if (directory / CHECKSUMS).is_file() else {}
    if not all(isinstance(value, str) for value in listed.values()):
        raise ConfigurationError(f"{directory / 'checksums.json'} must map file names to SHA-256 digests.")
    return {**listed, **configured}


def verify_checksums(directory: Path, configured: Mapping[str, str], report: Report | None = None) -> int:
    """Read every file that has a digest, and return their number. Raises ConfigurationError
    if one differs."""
    expected = expected_checksums(directory, configured)
    for name, digest in expected.items():
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()) and not path.is_symlink():
            raise ConfigurationError(f"sha256 names {name}, which is outside {directory}.")
        actual = digest_of(path, report)
        if actual != digest.lower():
            raise ConfigurationError(
                f"{path} is not the expected file: its SHA-256 is {actual}, not {digest.lower()}."
                " Copy or download it again, or correct the digest if the change was meant."
            )
    return len(expected)


def digest_of(path: Path, report: Report | None = None) -> str:
    """A file's SHA-256. Raises ConfigurationError for one that cannot be read."""
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                digest.update(chunk)
                done += len(chunk)
                if report:
                    report(path.name, done, total)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing, but the configuration or checksums.json has a SHA-256 of it."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}.") from error
    return digest.hexdigest()
