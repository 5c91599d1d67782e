"""guidellm's command line: a few synthetic prompts, two at a time.

Reads base_url, key, model, the tokenizer's folder, num_requests and max_tokens; says how many requests went
well and how many did not, and the tokens of each reply.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ask = json.load(sys.stdin)
GUIDELLM = Path(os.environ["CLIENT_FOLDER"]) / "bin" / "guidellm"

with tempfile.TemporaryDirectory() as folder:
    out = Path(folder, "report.json")
    options = {
        "--backend": f"kind=openai_http,target={ask['base_url'].removesuffix('/v1')},model={ask['model']}"
        f",api_key={ask['key']},request_format=/v1/completions",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={ask['num_requests']}",
        "--data": f"kind=synthetic_text,prompt_tokens=20,output_tokens={ask['max_tokens']}",
        "--tokenizer": f"kind=huggingface_auto,model={ask['tokenizer']}",
        "--output": f"kind=json,path={out}",
    }
    subprocess.run(
        [GUIDELLM, "run", "--disable-console", *(word for option in options.items() for word in option)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=sys.stderr,
        check=True,
    )
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
requests = benchmark["requests"]
told = {
    "successful": len(requests["successful"]),
    "failed": len(requests["errored"]) + len(requests["incomplete"]),
    "tokens": [request["output_tokens"] for request in requests["successful"]],
}
print("\n" + json.dumps(told))
