# moesaic_test(<name> SOURCES <file>... [LIBRARIES <target>...] [DEFINITIONS <x=y>...] [TIMEOUT <seconds>] [NAMED <other name>] [COMPILED <as>])
# makes one doctest program of the files and a ctest entry for each of them, called <name>.<file> (or <other name>.<file>), so that a failure names its place. COMPILED: as
# moesaic_compiled or moesaic_compiled_light says.
# SPDX-License-Identifier: Apache-2.0

# main() comes from an archive: a file that brings its own keeps it.
add_library(moesaic_test_main STATIC ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
target_link_libraries(moesaic_test_main PUBLIC doctest::doctest PRIVATE moesaic_strict)
target_compile_features(moesaic_test_main PUBLIC cxx_std_20)

# moesaic_compiled(<name> [<option>...]): a way of compiling tests, and tests/support/precompiled.hpp read once for all that are compiled so.
function(moesaic_compiled name)
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/tests/support/precompiled.cpp)
  target_compile_options(${name} PRIVATE ${ARGN})
  target_link_libraries(${name} PRIVATE moesaic::moesaic moesaic_strict doctest::doctest)
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)   # it holds no times of files, so that ccache may keep it
    target_compile_options(${name} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  else()   # g++ 12 takes moves and copies of a std::string that is precompiled for overruns
    target_compile_options(${name} PRIVATE -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict)
  endif()
  target_precompile_headers(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/precompiled.hpp)
endfunction()
set(CMAKE_PCH_PROLOGUE)   # else its headers count as a system's, which nobody is warned of

moesaic_compiled(moesaic_compiled)
# Half the compiler's time or less, for what then runs over a few hundred numbers. AddressSanitizer sees what is there before anything is optimised away.
set(light -O1)
if(MOESAIC_SANITIZE MATCHES address)
  set(light -O0)
endif()
moesaic_compiled(moesaic_compiled_light ${light})

function(moesaic_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT;NAMED;COMPILED" "SOURCES;LIBRARIES;DEFINITIONS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(NOT arg_NAMED)
    set(arg_NAMED ${name})
  endif()
  if(NOT arg_COMPILED)
    set(arg_COMPILED moesaic_compiled)
  endif()
  set(program moesaic_test_${name})
  add_executable(${program} ${arg_SOURCES})
  set_target_properties(${program} PROPERTIES OUTPUT_NAME ${name})
  target_include_directories(${program} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${program} PRIVATE MOESAIC_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ${arg_DEFINITIONS})
  target_link_libraries(${program} PRIVATE moesaic::moesaic moesaic_strict moesaic_test_main ${arg_LIBRARIES})
  foreach(property IN ITEMS COMPILE_OPTIONS COMPILE_DEFINITIONS)
    get_target_property(value ${arg_COMPILED} ${property})
    if(value)
      set_property(TARGET ${program} APPEND PROPERTY ${property} "${value}")
    endif()
  endforeach()
  get_target_property(launcher ${arg_COMPILED} CXX_COMPILER_LAUNCHER)
  if(launcher)
    set_target_properties(${program} PROPERTIES CXX_COMPILER_LAUNCHER "${launcher}")
  endif()
  target_precompile_headers(${program} REUSE_FROM ${arg_COMPILED})
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM stem)
    cmake_path(GET source FILENAME file)
    set(test ${MOESAIC_TEST_PREFIX}${arg_NAMED}.${stem})
    add_test(NAME ${test} COMMAND ${program} --source-file=*/${file})
    set_tests_properties(${test} PROPERTIES TIMEOUT ${arg_TIMEOUT} FAIL_REGULAR_EXPRESSION "test cases: +0 ")
  endforeach()
endfunction()
