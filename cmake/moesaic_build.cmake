# How this repository builds its own programs: warnings, sanitizers, ccache, and where libraries come from.
# SPDX-License-Identifier: Apache-2.0
set(CMAKE_CXX_EXTENSIONS OFF)
if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug, RelWithDebInfo or MinSizeRel" FORCE)
  endif()
  find_program(MOESAIC_CCACHE ccache)
  mark_as_advanced(MOESAIC_CCACHE)
  if(MOESAIC_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
    # A miss costs no second run of the preprocessor, since the compiler lists what it read; precompiled headers define no macros that differ.
    set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros ${MOESAIC_CCACHE})
  endif()
endif()

# Every program of this repository links it: the house's warnings, and the sanitizer if one was asked for.
add_library(moesaic_strict INTERFACE)
target_compile_options(moesaic_strict INTERFACE
  -Wall -Wextra -Wconversion -Wshadow $<$<BOOL:${MOESAIC_WARNINGS_AS_ERRORS}>:-Werror>)
if(MOESAIC_SANITIZE)
  # AddressSanitizer's checks as calls: two thirds of the compiler's time.
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang AND MOESAIC_SANITIZE MATCHES address)
    target_compile_options(moesaic_strict INTERFACE "SHELL:-mllvm -asan-instrumentation-with-call-threshold=0")
  endif()
  target_compile_options(moesaic_strict INTERFACE -fsanitize=${MOESAIC_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(moesaic_strict INTERFACE -fsanitize=${MOESAIC_SANITIZE})
endif()

# moesaic_library(<package> <repository> <tag>): the system's package, else its sources from the network.
function(moesaic_library package repository tag)
  find_package(${package} QUIET)
  if(${package}_FOUND)
    return()
  endif()
  message(STATUS "moesaic: ${package} is not installed; fetching ${tag} of ${repository}")
  include(FetchContent)
  FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON)
  FetchContent_MakeAvailable(${package})
endfunction()
if(MOESAIC_BUILD_TESTS OR MOESAIC_BUILD_EXAMPLES)
  moesaic_library(nlohmann_json https://github.com/nlohmann/json.git v3.11.3)
  moesaic_library(Eigen3 https://gitlab.com/libeigen/eigen.git 3.4.0)   # the demo's carving of a dense feed-forward into experts
endif()
if(MOESAIC_BUILD_TESTS)
  moesaic_library(doctest https://github.com/doctest/doctest.git v2.4.11)
endif()
if(MOESAIC_BUILD_BENCH)
  set(BENCHMARK_ENABLE_TESTING OFF)
  moesaic_library(benchmark https://github.com/google/benchmark.git v1.8.5)
endif()
