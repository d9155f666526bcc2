#!/usr/bin/env bash
# Tests the oracle files of one folder and nothing else: bash tests/oracle/run.sh DIR. The last line names the families that were skipped.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
[ $# = 1 ] && [ -d "$1" ] || { echo "usage: bash tests/run.sh --oracle-dir DIR     (a folder of .safetensors files)" >&2; exit 2; }
folder=$(realpath "$1")
cd "$(dirname "$0")/../.."

build=build/oracle
skipped=$build/tests/oracle/generated/skipped.txt
rm -f "$skipped"
trap 'cat "$skipped" 2>/dev/null || echo "skipped: unknown, the files could not be listed"' EXIT
cmake -S . -B "$build" -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DMOESAIC_BUILD_BENCH=OFF -DMOESAIC_BUILD_EXAMPLES=OFF -DMOESAIC_ORACLE_DIR="$folder"
cmake --build "$build" -j "$(nproc)" --target moesaic_test_oracle
"$build/tests/oracle/oracle" --no-intro
