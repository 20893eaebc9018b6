#!/usr/bin/env bash
# Everything that needs a GPU, in one run: kernels and models against their references, the same under compute-sanitizer
# where it is there, the benchmark. Needs nc_gpu_test and nc_gpu_bench beside it or in build-cuda, else nvcc 13 and cmake.
#   scripts/gpu.sh [depths] [batches] [context] [prompts]      the last line is the benchmark's JSON; exit status 0: all passed
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

programs=
for folder in "$here" "$root/build-cuda" "$root/build-gpu"; do
  [ -x "$folder/nc_gpu_test" ] && [ -x "$folder/nc_gpu_bench" ] && programs=$folder && break
done
if [ -z "$programs" ]; then
  echo '::: build'
  architectures=native
  [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1)" = 9.0 ] && architectures=90a-real   # native leaves out Hopper's own kernels
  cmake -S "$root/native/cuda" -B "$root/build-gpu" -DNANOCHAT_CUDA_ARCHITECTURES=$architectures \
    && cmake --build "$root/build-gpu" --parallel --target nc_gpu_test nc_gpu_bench || exit 1
  programs=$root/build-gpu
fi

failed=0
step() {
  echo "::: $1"
  shift
  "$@" || { echo "FAIL ($?)"; failed=1; }
}

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
step tests "$programs/nc_gpu_test"
for tool in memcheck racecheck synccheck initcheck; do
  if command -v compute-sanitizer >/dev/null; then
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/nc_gpu_test" 1
  else
    echo "::: $tool: SKIP (no compute-sanitizer here)"
  fi
done
step bench "$programs/nc_gpu_bench" "$@"
exit "$failed"
