#!/bin/sh
# Runs another compiler in place of CMake's: with_compiler.sh <compiler> [<launcher>...] -- <CMake's compiler> <arguments>...
# SPDX-License-Identifier: Apache-2.0
compiler=$1
shift
launchers=0
while [ "$1" != -- ]; do                # the launcher's words to the end, each still one word
  set -- "$@" "$1"
  shift
  launchers=$((launchers + 1))
done
shift 2
arguments=$(($# - launchers))
set -- "$@" "$compiler"
while [ "$arguments" -gt 0 ]; do        # and behind these the compiler's
  set -- "$@" "$1"
  shift
  arguments=$((arguments - 1))
done
for word in "$@"; do                    # clang would read a precompiled header that it is to write anew
  [ "$before" = -o ] && case $word in *.gch) rm -f "$word" ;; esac
  before=$word
done
exec "$@"
