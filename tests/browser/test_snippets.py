"""The same request in code: what is shown runs as it stands, and asks for the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.browser.conftest import KEY, complete
from tests.docs.shell import install_node_package

PROMPT = 'It\'s "true", null $HOME\n\\ é 🦊'
COMMANDS = {"curl": ["sh"], "Python": [sys.executable], "Node": ["node"]}
FILES = {"curl": "ask.sh", "Python": "ask.py", "Node": "ask.mjs"}


@pytest.mark.parametrize("stream", ["true", ""])
@pytest.mark.parametrize("language", COMMANDS)
def test_it_asks_for_the_same(page: Any, tmp_path: Path, language: str, stream: str) -> None:
    """Fields that the SDK does not know among them; the key is read from the environment, and never shown."""
    fields = {"max_tokens": 12, "seed": 5, "top_k": 40, "echo": "false", "stop": '["\\n\\n", "zz"]'}
    complete(page, PROMPT, stream=stream, logit_bias='{"5": -1.5}', **fields)
    text = page.locator(".tokens").text_content()
    page.get_by_text("The same request in code").click()
    page.locator("#code").get_by_text(language, exact=True).click()
    code = page.locator("#snippet").inner_text()
    assert KEY not in code
    if language == "Node" and not install_node_package(tmp_path):
        pytest.skip("openai for Node cannot be installed")
    (tmp_path / FILES[language]).write_text(code)
    environ = {"PATH": os.environ["PATH"], "VERBATIM_API_KEY": KEY}
    said = subprocess.run(
        [*COMMANDS[language], FILES[language]],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert texts(said.stdout) == text if language == "curl" else said.stdout.rstrip("\n") == text.rstrip("\n")


def texts(said: str) -> str:
    """The text in what curl prints: frames, or a reply."""
    frames = [line.removeprefix("data: ") for line in said.splitlines() if line and "[DONE]" not in line]
    return "".join(choice["text"] for frame in frames for choice in orjson.loads(frame)["choices"])
