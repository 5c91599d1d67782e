"""The clients, and how each is run: a process that reads what to ask and says what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients import proxy
from tests.clients.environments import folder_of, is_made, python_of, version_of

DRIVERS = Path(__file__).parent / "drivers"
KEY = "key-of-a-client"
END_S = 200  # promptfoo tries five times over a minute and a half
FORGOTTEN = ("PYTHONPATH", "VIRTUAL_ENV", "OPENAI_API_KEY", "OPENAI_BASE_URL", "http_proxy", "https_proxy")


@dataclass(frozen=True, slots=True)
class Client:
    """driver: a file of drivers/. packages: its environment's name, where it has one. version_command: says
    what is installed where no list pins it. behind: the HTTP that nginx before the server speaks with
    it. lacks: scenarios that it cannot be in, and why."""

    name: str
    title: str
    driver: str
    packages: str = ""
    version_command: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    behind: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        if not self.version_command:
            return version_of(self.packages)
        done = subprocess.run(self.version_command, capture_output=True, text=True, check=True)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        assert found, f"{self.version_command} names no version"
        return found[0]

    def _program(self) -> str | Path:
        if self.driver.endswith(".mjs"):
            return "node"
        python = python_of(self.packages)
        return python if self.packages and python.exists() else sys.executable

    def run(self, ask: dict[str, Any]) -> Any:
        """What the driver says in its last line."""
        if self.packages and not is_made(self.packages):
            raise AssertionError(f"{self.packages} is not installed: python -m tests.clients.environments")
        environ = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
        environ |= {"CLIENT_FOLDER": str(folder_of(self.packages)), "NO_PROXY": "127.0.0.1", **self.environ}
        done = subprocess.run(
            [self._program(), DRIVERS / self.driver],
            input=json.dumps(ask),
            capture_output=True,
            text=True,
            check=False,
            timeout=END_S,
            env=environ,
        )
        assert done.returncode == 0, f"the driver ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])


NO_TIMEOUT = "has no timeout that a caller may set"
NGINX = (proxy.PROGRAM, "-v")
CURL = ("curl", "--version")
CLIENTS = (
    Client("openai-0.28", "openai for Python, before 1.0", "openai_v0.py", "openai-0.28"),
    Client("openai-1.30", "openai for Python, an early 1.x", "openai_v1.py", "openai-1.30"),
    Client("openai", "openai for Python, newest", "openai_v1.py", "openai"),
    Client("openai-node", "openai for Node, newest", "openai_node.mjs", "openai-node"),
    Client("langchain", "LangChain, langchain-openai", "langchain_llm.py", "langchain"),
    Client("llamaindex", "LlamaIndex, llama-index-llms-openai-like", "llamaindex.py", "llamaindex"),
    Client("litellm", "LiteLLM, as a library", "litellm_text.py", "litellm"),
    Client(
        "llm",
        "llm, its command line",
        "llm_command.py",
        "llm",
        lacks={"stall": NO_TIMEOUT, "stall-stream": NO_TIMEOUT},
    ),
    Client(
        "promptfoo",
        "promptfoo, its command line",
        "promptfoo_eval.py",
        "promptfoo",
        lacks=dict.fromkeys(("streamed", "cut", "stall-stream", "cancelled"), "does not stream completions"),
    ),
    Client("httpx", "httpx, no retries of its own", "httpx_plain.py", "httpx"),
    Client("curl", "curl", "curl.py", version_command=CURL),
    Client(
        "curl-retry", "`curl --retry 2`", "curl.py", version_command=CURL, environ={"CURL_FLAGS": "--retry 2"}
    ),
    Client("nginx", "httpx through nginx", "httpx_plain.py", "httpx", version_command=NGINX, behind="1.0"),
    Client(
        "nginx-1.1",
        "httpx through nginx with `proxy_http_version 1.1`",
        "httpx_plain.py",
        "httpx",
        version_command=NGINX,
        behind="1.1",
    ),
)
# These ask in ways of their own, and have tests of their own.
GUIDELLM = Client("guidellm", "guidellm, a benchmark of servers", "guidellm_run.py", "guidellm")
LM_EVAL = Client("lm-eval", "lm-evaluation-harness, local-completions", "lm_eval_task.py", "lm-eval")
CONTINUE = Client(
    "continue", "Continue, an editor's autocomplete", "continue_autocomplete.mjs", packages="continue"
)
