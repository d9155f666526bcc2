#!/bin/sh
# Runs another compiler in place of CMake's: with_compiler.sh <compiler> [<launcher>...] -- <CMake's compiler> <arguments>...
# SPDX-License-Identifier: Apache-2.0
compiler=$1
shift
launcher=
while [ "$1" != -- ]; do
  launcher="$launcher $1"
  shift
done
shift 2
exec $launcher "$compiler" "$@"
