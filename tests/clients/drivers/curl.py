"""curl's command line; what is in CURL_FLAGS comes with it."""

import json
import os
import subprocess

from common import drive, exited


def start(ask, **fields):
    body = {
        "model": ask.model,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "temperature": 0,
        **fields,
    }
    command = ["curl", "-sS", "-N", "--fail", "--max-time", str(ask.timeout_s), "-d", "@-"]
    command += [*os.environ.get("CURL_FLAGS", "").split(), "-w", "%{stderr}%{http_code}"]
    headers = ["-H", f"authorization: Bearer {ask.key}", "-H", "content-type: application/json"]
    process = subprocess.Popen(
        [*command, *headers, f"{ask.base_url}/completions"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps(body))
    process.stdin.close()
    return process


def end(process):
    message = process.stderr.read()
    if code := process.wait():
        raise exited("curl", code, int(message[-3:]) or None, message)


def whole(ask):
    process = start(ask)
    text = process.stdout.read()
    end(process)
    return json.loads(text)["choices"][0]["text"]


def pieces(ask):
    process = start(ask, stream=True)
    try:
        for line in process.stdout:
            if line.startswith("data: ") and line.strip() != "data: [DONE]":
                yield from (choice["text"] for choice in json.loads(line[6:])["choices"])
    except GeneratorExit:
        process.terminate()
        raise
    end(process)


drive(whole, pieces)
