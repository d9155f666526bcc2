# Installs moesaic into a fresh prefix, or names its folder, and builds and runs the project consumer/ on it.
# cmake -DMODE=find_package|add_subdirectory -DSOURCE=<moesaic> -DBINARY=<scratch> -DCOMPILER=<c++> -DVERSION=<x.y.z> -P consume.cmake
# SPDX-License-Identifier: Apache-2.0
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${BINARY})
file(GLOB_RECURSE headers RELATIVE ${SOURCE}/include ${SOURCE}/include/moesaic/*.hpp)
list(TRANSFORM headers REPLACE "(.+)" "#include <\\1>\n")
list(JOIN headers "" headers)
file(WRITE ${BINARY}/consumer/every_header.hpp "#pragma once\n${headers}")

set(configure ${CMAKE_COMMAND} -S ${SOURCE}/tests/package/consumer -B ${BINARY}/consumer -G Ninja -DCMAKE_CXX_COMPILER=${COMPILER})
if(MODE STREQUAL "find_package")
  set(library ${CMAKE_COMMAND} -S ${SOURCE} -B ${BINARY}/library -G Ninja -DCMAKE_CXX_COMPILER=${COMPILER})
  run(${library} -DMOESAIC_BUILD_TESTS=OFF -DMOESAIC_BUILD_BENCH=OFF -DMOESAIC_BUILD_EXAMPLES=OFF)
  run(${CMAKE_COMMAND} --install ${BINARY}/library --prefix ${BINARY}/prefix)
  run(${configure} -DCMAKE_PREFIX_PATH=${BINARY}/prefix -DMOESAIC_VERSION=${VERSION})
else()
  run(${configure} -DMOESAIC_SOURCE=${SOURCE})
endif()
run(${CMAKE_COMMAND} --build ${BINARY}/consumer)
run(${BINARY}/consumer/consumer)
