# A page is what a program prints: cmake -DPROGRAM=... -DPAGE=... -P prints_page.cmake
# SPDX-License-Identifier: Apache-2.0
execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE printed COMMAND_ERROR_IS_FATAL ANY)
file(READ ${PAGE} page)
if(NOT printed STREQUAL page)
  message(FATAL_ERROR "${PAGE} is not what ${PROGRAM} prints: write it anew with ${PROGRAM} > ${PAGE}")
endif()
