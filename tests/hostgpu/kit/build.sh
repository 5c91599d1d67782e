#!/bin/sh
# build.sh VENV
#
# Makes VENV/fake/run, which runs a command in that environment on a simulated GPU: VENV/fake/run python x.py
# VENV has the packages of requirements/cuda.txt, with CUDA's headers among them. Needs gcc.
set -eu
[ $# -eq 1 ] || { sed -n 2,5p "$0"; exit 2; }
kit=$(cd "$(dirname "$0")" && pwd)
venv=$(cd "$1" && pwd)
fake=$venv/fake

mkdir -p "$fake/lib" "$fake/py"
cp "$kit/sitecustomize.py" "$fake/py/"
include=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13/include)
shared() { # NAME OUTPUT SOURCE...
  name=$1 output=$2
  shift 2
  gcc -O1 -w -shared -fPIC -I"$include" -Wl,-soname,"$name" -o "$output" "$@" -ldl -lpthread
}
cuda="$kit/memory.c $kit/runtime.c $kit/driver.c $kit/virtual.c $kit/refused.c $kit/blas.c"
# shellcheck disable=SC2086  # a word for each file
shared libfakecuda.so "$fake/lib/libfakecuda.so" $cuda
# shellcheck disable=SC2086
shared libcuda.so.1 "$fake/lib/libcuda.so.1" $cuda
ln -sf libcuda.so.1 "$fake/lib/libcuda.so"
shared libnvidia-ml.so.1 "$fake/lib/libnvidia-ml.so.1" "$kit/nvml.c"

cat > "$fake/run" << RUN
#!/bin/sh
export LD_PRELOAD="$fake/lib/libfakecuda.so" LD_LIBRARY_PATH="$fake/lib" TRITON_LIBCUDA_PATH="$fake/lib"
export VLLM_USE_FLASHINFER_SAMPLER=0 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
export PATH="$venv/bin:\$PATH" PYTHONPATH="$fake/py\${PYTHONPATH:+:\$PYTHONPATH}"
exec "\$@"
RUN
chmod +x "$fake/run"
