#!/bin/sh
# Runs another compiler in place of CMake's: with_compiler.sh <launcher> <compiler> <CMake's compiler> <arguments>...
# SPDX-License-Identifier: Apache-2.0
launcher=$1
compiler=$2
shift 3
exec "$launcher" "$compiler" "$@"
