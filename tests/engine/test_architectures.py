"""What vLLM and transformers know of architectures, against what is read of it without importing them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.errors import ConfigurationError
from server.weights.architecture import generating_architectures, read_architecture

pytestmark = pytest.mark.engine

REGISTRY = """
from vllm.model_executor.models import registry
print(*registry._TEXT_GENERATION_MODELS, *registry._MULTIMODAL_MODELS)
"""


def test_the_tables_are_vllms() -> None:
    """What is read in the source of vLLM's registry is what the registry says."""
    ran = subprocess.run([sys.executable, "-c", REGISTRY], capture_output=True, text=True, check=True)
    assert generating_architectures() == set(ran.stdout.split())


@pytest.mark.parametrize(
    ("config", "longest", "vocab_size"),
    [
        ({"model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": 300}, 2048, 300),
        (
            {
                "model_type": "gemma3",
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {"model_type": "gemma3_text", "hidden_size": 128},
            },
            131072,
            262208,
        ),
    ],
    ids=["falcon", "gemma3"],
)
def test_what_config_json_leaves_out_is_its_classs(
    tmp_path: Path, config: dict[str, object], longest: int, vocab_size: int
) -> None:
    """A length or a vocabulary that is the class's default is asked of the class."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_architecture(tmp_path)
    assert (found.longest, found.vocab_size) == (longest, vocab_size)


def test_no_code_of_a_model_is_run(tmp_path: Path) -> None:
    """A configuration that brings a class of its own is not understood; nobody is asked whether to run it."""
    config = {"model_type": "its-own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ConfigurationError, match="vocab_size"):
        read_architecture(tmp_path)
    assert not (tmp_path / "ran").exists()
