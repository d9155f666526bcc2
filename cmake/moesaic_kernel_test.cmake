# moesaic_kernel_test(<name> SOURCES <file>... [LIBRARIES <target>...] [DEFINITIONS <x=y>...] [TIMEOUT <seconds>] [PLAIN_ONLY] [SAME_COMPILER])
# A doctest program whose kernels run on the device model (tests/device_model), as moesaic_test makes it; and where no sanitizer was asked for, a second
# one, race.<name>: compiled for ThreadSanitizer but linked with the model's race detector in its place.
# SPDX-License-Identifier: Apache-2.0

# Compiled so, programs tell the model's race detector, which they link, of every access. SAME_COMPILER: by the build's own, all the same.
function(moesaic_watch_races compiled)
  cmake_parse_arguments(PARSE_ARGV 1 arg "SAME_COMPILER" "" "")
  target_compile_options(${compiled} PRIVATE -fsanitize=thread)
  target_compile_definitions(${compiled} PRIVATE MOESAIC_DEVICE_MODEL_RACE)
  # clang tells of every access. g++ does not tell of what it hands to a call by value, nor of a call's result that it stores (and MOESAIC_DEVICE makes up
  # for that only where kernels call their own functions), so clang compiles this flavour wherever there is one.
  find_program(MOESAIC_CLANG NAMES clang++ clang++-19 clang++-14)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang OR (MOESAIC_CLANG AND NOT arg_SAME_COMPILER))
    # It leaves the reading of `x += 1` out, which may be of bytes that nobody has written.
    target_compile_options(${compiled} PRIVATE "SHELL:-mllvm -tsan-instrument-read-before-write=1" "SHELL:-Xclang -fno-pch-timestamp" -Wno-unknown-warning-option)
    if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
      set_target_properties(${compiled} PROPERTIES CXX_COMPILER_LAUNCHER
                            "sh;${PROJECT_SOURCE_DIR}/cmake/with_compiler.sh;${MOESAIC_CLANG};${CMAKE_CXX_COMPILER_LAUNCHER};--")
    endif()
  else()
    # g++ expands memcpy and memset without telling of what they touch: it shall call them.
    target_compile_options(${compiled} PRIVATE -fno-builtin-memcpy -fno-builtin-memmove -fno-builtin-memset
                           -mmemcpy-strategy=libcall:-1:noalign -mmemset-strategy=libcall:-1:noalign)
  endif()
endfunction()

# Frame pointers and lines: findings name places, by an addr2line that does not see what clang inlines where DWARF is 5. g++ does not know #pragma unroll.
# What makes half of g++'s time is left out: where variables live, which no finding names, and what -O2 would gain in tests that run for seconds.
set(options -g1 -gdwarf-4 -fno-omit-frame-pointer -fno-optimize-sibling-calls -Wno-unknown-pragmas)
moesaic_compiled(moesaic_compiled_kernel ${light} ${options} $<$<CXX_COMPILER_ID:GNU>:-fno-var-tracking> $<$<CXX_COMPILER_ID:GNU>:-fno-var-tracking-assignments>)
if(NOT MOESAIC_SANITIZE)
  moesaic_compiled(moesaic_compiled_race ${light} ${options})
  moesaic_watch_races(moesaic_compiled_race)
  moesaic_compiled(moesaic_compiled_race_same ${light} ${options})
  moesaic_watch_races(moesaic_compiled_race_same SAME_COMPILER)
endif()

function(moesaic_kernel_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "PLAIN_ONLY;SAME_COMPILER" "TIMEOUT" "SOURCES;LIBRARIES;DEFINITIONS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  moesaic_test(${name} SOURCES ${arg_SOURCES} LIBRARIES moesaic_device_model ${arg_LIBRARIES} DEFINITIONS ${arg_DEFINITIONS} TIMEOUT ${arg_TIMEOUT}
               COMPILED moesaic_compiled_kernel)
  if(MOESAIC_SANITIZE OR arg_PLAIN_ONLY)
    return()
  endif()
  set(MOESAIC_TEST_PREFIX "${MOESAIC_TEST_PREFIX}race.")
  set(compiled moesaic_compiled_race)
  if(arg_SAME_COMPILER)
    string(APPEND compiled _same)
  endif()
  moesaic_test(race_${name} NAMED ${name} SOURCES ${arg_SOURCES} LIBRARIES moesaic_device_model moesaic_device_model_race ${arg_LIBRARIES}
               DEFINITIONS ${arg_DEFINITIONS} TIMEOUT ${arg_TIMEOUT} COMPILED ${compiled})
endfunction()
