#!/usr/bin/env bash
# Everything that needs a GPU, in one command: builds it, records conformance, runs the layers and every kernel test, and benchmarks.
# SPDX-License-Identifier: Apache-2.0
usage="usage: bash tests/cuda/run.sh [--without-bench] [--build DIR]     needs an NVIDIA driver and a device of architecture 90 (H100, H200)"
set -euo pipefail
cd "$(dirname "$0")/../.."
source cmake/setup.sh

build=build
bench=yes
while [ $# -gt 0 ]; do
  case $1 in
    --without-bench) bench= ;;
    --build)
      [ $# -gt 1 ] || { echo "$usage" >&2; exit 2; }
      build=$(realpath -m "$2")
      shift ;;
    --help) echo "$usage"; exit ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift
done

say() { printf '== %4d s  %s\n' "$SECONDS" "$*"; }
setup build test
find_nvcc "$build/cache/cuda"
say "building with $nvcc"
cmake --preset release -B "$build/gpu" -DMOESAIC_CUDA=ON -DMOESAIC_NVCC="$nvcc" -DMOESAIC_BUILD_EXAMPLES=OFF >/dev/null
cmake --build "$build/gpu" -j "$(nproc)" --target moesaic_conformance_gpu moesaic_test_cuda moesaic_test_cuda_kernels moesaic_package_cuda moesaic_bench_cuda

# Each is run, whatever the one before it said; 77 is how they say that there is no device.
failed=0
run() {
  say "$*"
  "$@" || { echo "== $1 answers $?"; failed=1; }
}
run "$build/gpu/tests/conformance/conformance_gpu" record
run "$build/gpu/tests/package/cuda/moesaic_package_cuda"
run "$build/gpu/tests/cuda/cuda"
run "$build/gpu/tests/cuda/cuda_kernels"
if [ -n "$bench" ]; then
  run "$build/gpu/bench/cuda/moesaic_bench_cuda" --benchmark_out="$build/gpu/cuda.json" --benchmark_out_format=json
fi
say "done"
exit $failed
