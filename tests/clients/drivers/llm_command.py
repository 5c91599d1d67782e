"""llm's command line: its text has no borders, so that words stand for pieces."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from common import drive, exited

LLM = Path(os.environ["CLIENT_FOLDER"]) / "bin" / "llm"
NAME = "the-server"


def start(ask, folder, *flags):
    model = {"model_id": NAME, "model_name": ask.model, "api_base": ask.base_url, "completion": True}
    # JSON is YAML, too.
    Path(folder, "extra-openai-models.yaml").write_text(json.dumps([model]))
    options = ["-o", "max_tokens", str(ask.max_tokens), "-o", "temperature", "0", "--key", ask.key]
    return subprocess.Popen(
        [LLM, "-m", NAME, *options, *flags, ask.prompt],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"LLM_USER_PATH": folder},
    )


def end(process):
    message = process.stderr.read().decode()
    if code := process.wait():
        status = re.search(r"Error code: (\d+)", message)
        raise exited("llm", code, status and int(status[1]), message)


def whole(ask):
    with tempfile.TemporaryDirectory() as folder:
        process = start(ask, folder, "--no-stream")
        text = process.stdout.read().decode()
        end(process)
    return text.removesuffix("\n")


def pieces(ask):
    with tempfile.TemporaryDirectory() as folder:
        process = start(ask, folder)
        try:
            while data := os.read(process.stdout.fileno(), 4096):
                yield from re.findall(r"\s*\S+", data.decode())
        except GeneratorExit:
            process.terminate()
            process.wait()
            raise
        end(process)


drive(whole, pieces)
