"""promptfoo's command line, of one test without assertions."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from common import drive, exited

PROMPTFOO = Path(os.environ["CLIENT_FOLDER"]) / "node_modules" / ".bin" / "promptfoo"


def whole(ask):
    settings = {"apiBaseUrl": ask.base_url, "apiKey": ask.key, "max_tokens": ask.max_tokens, "temperature": 0}
    config = {
        "prompts": ["{{prompt}}"],
        "providers": [{"id": f"openai:completion:{ask.model}", "config": settings}],
        "tests": [{"vars": {"prompt": ask.prompt}}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "config.json"), Path(folder, "out.json")
        file.write_text(json.dumps(config))
        environ = {
            "PROMPTFOO_CONFIG_DIR": folder,
            "PROMPTFOO_DISABLE_TELEMETRY": "1",
            "PROMPTFOO_DISABLE_UPDATE": "1",
            "REQUEST_TIMEOUT_MS": str(int(ask.timeout_s * 1000)),
        }
        done = subprocess.run(
            [PROMPTFOO, "eval", "-c", file, "-o", out, "--no-cache"],
            env=os.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )
        (result,) = json.loads(out.read_text())["results"]["results"]
    if done.returncode:
        status = re.search(r'"code": (\d{3})|\b([45]\d\d)\b', result["error"])
        raise exited("promptfoo", done.returncode, status and int(status[1] or status[2]), result["error"])
    return result["response"]["output"]


def pieces(ask):
    raise NotImplementedError("promptfoo does not stream completions")


drive(whole, pieces)
