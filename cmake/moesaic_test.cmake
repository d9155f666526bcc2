# moesaic_test(<name> SOURCES <file>... [LIBRARIES <target>...] [DEFINITIONS <x=y>...] [TIMEOUT <seconds>])
# makes one doctest program of the files and a ctest entry for each of them, called <name>.<file>, so that a failure names its place.
# SPDX-License-Identifier: Apache-2.0

# main() comes from an archive: a file that brings its own keeps it.
add_library(moesaic_test_main STATIC ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
target_link_libraries(moesaic_test_main PUBLIC doctest::doctest PRIVATE moesaic_strict)
target_compile_features(moesaic_test_main PUBLIC cxx_std_20)

function(moesaic_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LIBRARIES;DEFINITIONS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  set(program moesaic_test_${name})
  add_executable(${program} ${arg_SOURCES})
  set_target_properties(${program} PROPERTIES OUTPUT_NAME ${name})
  target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${program} PRIVATE MOESAIC_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ${arg_DEFINITIONS})
  target_link_libraries(${program} PRIVATE moesaic::moesaic moesaic_strict moesaic_test_main ${arg_LIBRARIES})
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM stem)
    cmake_path(GET source FILENAME file)
    set(test ${MOESAIC_TEST_PREFIX}${name}.${stem})
    add_test(NAME ${test} COMMAND ${program} --source-file=*/${file})
    set_tests_properties(${test} PROPERTIES TIMEOUT ${arg_TIMEOUT} FAIL_REGULAR_EXPRESSION "test cases: +0 ")
  endforeach()
endfunction()
