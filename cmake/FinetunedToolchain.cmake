# Compiler cache, linker, warnings, sanitizers and the optional CUDA language.
find_program(FINETUNED_CCACHE ccache)
if(FINETUNED_CCACHE)
  # Paths below the source tree are hashed relative to it: two checkouts share one cache.
  set(_ccache ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
              ${FINETUNED_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${_ccache})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${_ccache})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${_ccache})
endif()

find_program(FINETUNED_LLD ld.lld)
if(FINETUNED_LLD)
  add_link_options(-fuse-ld=lld)
endif()

add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wno-unused-parameter>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>)
if(FINETUNED_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${FINETUNED_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:C,CXX>:-fno-omit-frame-pointer>)
  if(FINETUNED_SANITIZE MATCHES "undefined")
    add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-fno-sanitize-recover=undefined>)  # a finding ends the program
  endif()
  add_link_options(-fsanitize=${FINETUNED_SANITIZE})
endif()

# CUDA: sm_86 (RTX 3090) and sm_90 (H100) machine code, PTX of compute_86 for what comes later.
set(FINETUNED_HAVE_CUDA OFF)
if(FINETUNED_CUDA AND FINETUNED_BUILD_ENGINE)
  if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
    set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES 86-real 90-real 86-virtual)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(FINETUNED_HAVE_CUDA ON)
  else()
    message(STATUS "No CUDA toolkit found: building for the CPU only")
  endif()
endif()
