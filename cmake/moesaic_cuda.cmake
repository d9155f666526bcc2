# Decides MOESAIC_CUDA: on where an nvcc is found, off elsewhere. No kernel is in the tree yet; the answer is reported and used by none.
# SPDX-License-Identifier: Apache-2.0
find_program(MOESAIC_NVCC nvcc PATHS ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
mark_as_advanced(MOESAIC_NVCC)
if(MOESAIC_NVCC)
  set(moesaic_has_nvcc ON)
else()
  set(moesaic_has_nvcc OFF)
endif()
option(MOESAIC_CUDA "Build the CUDA side (needs nvcc)" ${moesaic_has_nvcc})

if(MOESAIC_CUDA AND NOT MOESAIC_NVCC)
  message(FATAL_ERROR "moesaic: MOESAIC_CUDA is ON, but no nvcc is on PATH; give -DMOESAIC_NVCC=/path/to/nvcc, or leave MOESAIC_CUDA out.")
endif()
if(MOESAIC_CUDA)
  message(STATUS "moesaic: nvcc found (${MOESAIC_NVCC}); this version has no CUDA kernel to build")
else()
  message(STATUS "moesaic: without CUDA")
endif()
