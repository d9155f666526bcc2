#!/usr/bin/env bash
# Installs what is missing, builds every test and runs them: with g++; with clang, AddressSanitizer and UBSan; with a newer clang and ThreadSanitizer.
# SPDX-License-Identifier: Apache-2.0
usage="usage: bash tests/run.sh [options]
  --oracle-dir DIR      only the oracle test, over the files in DIR; nothing else is built or run
  --without-sanitizers  only the g++ build
  --all-sanitizers      every test under the sanitizers too, not only those they are most likely to find something in
  --without-cuda        nothing that needs nvcc; else it is the system's, or NVIDIA's packages from PyPI in build/cache/cuda
  --build DIR           build there, in place of build/"
set -euo pipefail
from=$PWD
caller=$PWD
cd "$(dirname "$0")/.."
source cmake/setup.sh

build=build
builds=(release asan tsan)
all=OFF
cuda=ON
while [ $# -gt 0 ]; do
  case $1 in
    --oracle-dir)
      [ $# -gt 1 ] || { echo "$usage" >&2; exit 2; }
      setup build test
      cd "$from"
      exec bash "$OLDPWD/tests/oracle/run.sh" "$2" </dev/null ;;
    --without-sanitizers) builds=(release) ;;
    --all-sanitizers) all=ON ;;
    --without-cuda) cuda=OFF ;;
    --build)
      [ $# -gt 1 ] || { echo "$usage" >&2; exit 2; }
      build=$(cd "$caller" && realpath -m "$2")
      shift ;;
    --help) echo "$usage"; exit ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
  shift
done

say() { printf '== %4d s  %s\n' "$SECONDS" "$*"; }
setup build test
if [[ " ${builds[*]} " == *" tsan "* ]] && ! setup newer; then
  say "no newer clang to be had here; clang++ serves in its place"
fi
nvcc=
[ $cuda = OFF ] || find_nvcc "$build/cache/cuda"
jobs=$(nproc)
declare -A compiler=([release]=g++ [asan]=clang++ [tsan]=$(command -v clang++-19 || echo clang++))

mkdir -p "$build"
for name in "${builds[@]}"; do
  say "building $name with ${compiler[$name]}${nvcc:+ and $nvcc}"
  cmake --fresh --preset "$name" -B "$build/$name" -DCMAKE_CXX_COMPILER="${compiler[$name]}" -DMOESAIC_SANITIZE_ALL=$all \
    -DMOESAIC_CUDA=$cuda ${nvcc:+-DMOESAIC_NVCC="$nvcc"} >/dev/null
  cmake --build "$build/$name" -j "$jobs"
done

# One ctest over all builds, so that one line at the end says how it went.
echo "subdirs(${builds[*]})" >"$build/CTestTestfile.cmake"
say "testing"
ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$jobs" </dev/null
