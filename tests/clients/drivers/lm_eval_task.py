"""lm-evaluation-harness's local-completions on a task that is made here: choices after contexts.

Reads base_url, key, model, the tokenizer's folder and documents; says for each choice of each its
log-probability, and whether greedy decoding gives it.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

ask = json.load(sys.stdin)
os.environ["OPENAI_API_KEY"] = ask["key"]
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval  # noqa: E402 - reads the environment
from lm_eval.tasks import TaskManager  # noqa: E402

TASK = """
task: made
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: 0
target_delimiter: ""
"""

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder, "documents.jsonl")
    data.write_text("".join(json.dumps(document) + "\n" for document in ask["documents"]))
    Path(folder, "made.yaml").write_text(TASK.format(data=data, folder=folder))
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": ask["model"],
            "base_url": f"{ask['base_url']}/completions",
            "tokenizer": ask["tokenizer"],
            "tokenizer_backend": "huggingface",
        },
        tasks=["made"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        bootstrap_iters=0,
    )
samples = sorted(results["samples"]["made"], key=lambda sample: sample["doc_id"])
print("\n" + json.dumps([sample["filtered_resps"] for sample in samples]))
