#!/bin/sh
# run-all.sh OUT [STEP…]: what a GPU has to show, in one call; what one call does not reach, the next one does.
#
#   kernels      the Triton kernels against the reference, and against vLLM's own
#   memory       kill -9 of the CUDA engine: serving again, memory freed
#   sampling     benchmarks/sampling.py: ours, vLLM's V2 kernels, a plain copy
#   speculation  drafts change no token: vLLM's V2 samplers with our processor, with drafts and without
#   structured   tests/engine/test_structured.py: grammars, their masks on the device
#   adapters     tests/engine/test_adapters.py: LoRA against PEFT's values, several in one batch
#   sleep        tests/gpu/test_sleep.py: levels 1 and 2; same weights, same text, memory given back
#   contract     the rest of tests/engine: contract over HTTP, runner, greedy text, log-probabilities
#   serving      benchmarks/serving.py: our server and vLLM's own, a Llama of 8B random parameters
#
# Needs: a bundle that is installed, and the test tools beside it (docs/development-gpu.md). It starts from the
# folder that holds tests/, benchmarks/ and pyproject.toml, the GPU to itself.
#
# PYTHON           of the environment that dev-env.sh has made, or of a checkout's .venv
# TOTAL_S          seconds for this call (570); a step that would not fit is left for the next one
# VERBATIM_COMMIT  the commit, where there is no git
# SAMPLING, CONTRACT, SERVING   arguments for the three, to try the script with less
#
# OUT/STEP.log is what a step said, OUT/STEP.json or .xml its figures, OUT/STEP.result one line. A step that has a
# result is skipped, unless it is named. serving goes on, after an interruption, with the runs that are missing.
# Exit code: 0 all passed, 1 a step failed, 2 wrong use, 3 steps are left: call again.
set -u
ALL="kernels memory sampling speculation structured adapters sleep contract serving"
[ $# -ge 1 ] || { sed -n '2,28s/^# \{0,1\}//p' "$0"; exit 2; }

tests() { # pytest's warnings are for development: other versions of libraries have others
  xml=$1; shift
  "$PYTHON" -m pytest -q --long -W default -p no:cacheprovider --junit-xml "$xml" "$@"
}

STRUCTURED=tests/engine/test_structured.py ADAPTERS=tests/engine/test_adapters.py

step() { # in a process of its own, which knows OUT, ON_GPU and PYTHON
  if [ "$ON_GPU" = True ]; then MARK=gpu; else MARK=engine; fi
  case $1 in
    kernels) tests "$OUT/kernels.xml" tests/gpu/test_kernels_gpu.py tests/gpu/test_draw_kernels_gpu.py ;;
    memory) tests "$OUT/memory.xml" tests/gpu/test_memory.py ;;
    sampling) "$PYTHON" -m benchmarks.sampling --json "$OUT/sampling.json" ${SAMPLING:-} ;;
    speculation) tests "$OUT/speculation.xml" tests/gpu/test_speculation_gpu.py ;;
    structured) tests "$OUT/structured.xml" -m "$MARK" $STRUCTURED ;;
    adapters) tests "$OUT/adapters.xml" -m "$MARK" $ADAPTERS ;;
    sleep) tests "$OUT/sleep.xml" tests/gpu/test_sleep.py ;;
    contract)
      tests "$OUT/contract.xml" -m "$MARK" tests/engine --ignore $STRUCTURED --ignore $ADAPTERS ${CONTRACT:-} ;;
    serving)
      "$PYTHON" -m benchmarks.serving --json "$OUT/serving.json" ${SERVING:---dummy-8b --repeats 1} ;;
  esac
}
if [ "$1" = --step ]; then step "$2"; exit; fi

# Seconds: the least to begin with, and the most. Estimates: no GPU has run this yet.
limits() {
  case $1 in
    kernels) echo 60 240 ;;
    memory) echo 120 300 ;;
    sampling) echo 60 240 ;;
    speculation) echo 60 240 ;;
    structured) echo 90 300 ;;
    adapters) echo 120 400 ;;
    sleep) echo 90 300 ;;
    contract) echo 300 560 ;;
    serving) echo 150 3600 ;;
    *) echo "run-all.sh: no step is called $1" >&2; return 1 ;;
  esac
}

# One step: its result, or none where the time has ended it.
run() { # name, seconds
  began=$(date +%s)
  timeout -k 20 "$2" sh "$SELF" --step "$1" > "$OUT/$1.log" 2>&1
  code=$? seconds=$(($(date +%s) - began))
  last=$(grep -E '^[0-9]+ (passed|failed|skipped|deselected)|^no tests ran|Error' "$OUT/$1.log" | tail -n 1)
  case $code in
    0) word=passed ;;
    5) word=nothing last="no test ran here" ;; # pytest's
    124 | 137) return ;;
    *) word=failed ;;
  esac
  echo "$word in $seconds s${last:+: $last}" > "$OUT/$1.result"
}

mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd) SELF=$(readlink -f "$0"); shift
case ${PYTHON:=} in */*) PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON") ;; esac
cd "$(dirname "$SELF")/../.." || exit 2
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
"$PYTHON" -c 'import pytest, server' || { echo "run-all.sh: set PYTHON, $PYTHON is not enough" >&2; exit 2; }
[ ! -f "$(dirname "$PYTHON")/env.sh" ] || . "$(dirname "$PYTHON")/env.sh"
ON_GPU=$("$PYTHON" -c 'from tests.serving import ON_GPU; print(ON_GPU)')
PYTHONDONTWRITEBYTECODE=1
export OUT PYTHON ON_GPU PYTHONDONTWRITEBYTECODE
start=$(date +%s) total=${TOTAL_S:-570}
"$PYTHON" - > "$OUT/machine.json" <<'END'
import json
from importlib.metadata import distributions
from benchmarks.report import machine
packages = sorted({f"{found.name}=={found.version}" for found in distributions()})
print(json.dumps(machine("run-all") | {"command": "tests/gpu/run-all.sh", "packages": packages}, indent=1))
END
nvidia-smi > "$OUT/nvidia-smi.txt" 2>&1

for name in "$@"; do limits "$name" > /dev/null || exit 2; rm -f "$OUT/$name.result"; done
[ $# -gt 0 ] || set -- $ALL
failed=0 left=0
for name in "$@"; do
  bounds=$(limits "$name") rest=$((total - ($(date +%s) - start)))
  least=${bounds% *} most=${bounds#* }
  [ "$most" -lt "$rest" ] || most=$rest
  if [ -f "$OUT/$name.result" ]; then
    :
  elif [ "$rest" -lt "$least" ]; then
    printf '%-11s left for the next call\n' "$name"; left=1; continue
  else
    run "$name" "$most"
  fi
  if [ -f "$OUT/$name.result" ]; then
    printf '%-11s %s\n' "$name" "$(cat "$OUT/$name.result")"
    grep -q ^passed "$OUT/$name.result" || failed=1
  else
    printf '%-11s cut off after %s s: call again\n' "$name" "$most"; left=1
  fi
done
[ $failed = 0 ] || exit 1
[ $left = 0 ] || exit 3
