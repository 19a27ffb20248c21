# Third-party targets. Everything is a Debian 12 package but LibTorch and the google.rpc protos,
# which deploy/install_deps.sh puts into ${FINETUNED_DEPS_DIR}/venv from PyPI, pinned.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(RE2 REQUIRED IMPORTED_TARGET re2)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

file(GLOB _site ${FINETUNED_DEPS_DIR}/venv/lib/python3*/site-packages)
list(GET _site 0 FINETUNED_SITE_PACKAGES)
if(NOT FINETUNED_SITE_PACKAGES)
  message(FATAL_ERROR "${FINETUNED_DEPS_DIR}/venv is missing; run deploy/install_deps.sh first")
endif()

if(FINETUNED_BUILD_SERVICE)
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
  find_package(SQLite3 REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
  find_package(CLI11 CONFIG QUIET)
  set(FINETUNED_GOOGLEAPIS_DIR ${FINETUNED_SITE_PACKAGES})
endif()
if(FINETUNED_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

# LibTorch of the PyPI wheel. Its own CMake package insists on a CUDA toolkit even for CPU use, so
# the libraries are imported here: ft_torch always, with the CUDA half when the kernels are built.
if(FINETUNED_BUILD_ENGINE)
  set(_torch ${FINETUNED_SITE_PACKAGES}/torch)
  if(NOT EXISTS ${_torch}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "LibTorch not found in ${_torch}; run deploy/install_deps.sh first")
  endif()
  add_library(ft_torch INTERFACE)
  target_include_directories(ft_torch SYSTEM INTERFACE
    ${_torch}/include ${_torch}/include/torch/csrc/api/include)
  target_compile_definitions(ft_torch INTERFACE USE_C10D_GLOO)
  target_link_libraries(ft_torch INTERFACE ${_torch}/lib/libtorch_cpu.so ${_torch}/lib/libc10.so)
  # libtorch_cpu.so itself needs libcudart and libcupti: from the toolkit, or from the wheels that
  # deploy/install_deps.sh installs where there is no toolkit.
  set(_rpath ${_torch}/lib ${FINETUNED_SITE_PACKAGES}/nvidia/cu13/lib)
  if(FINETUNED_HAVE_CUDA)
    # Without --no-as-needed the linker drops libtorch_cuda, which registers its kernels on load.
    target_link_libraries(ft_torch INTERFACE
      -Wl,--no-as-needed ${_torch}/lib/libtorch_cuda.so ${_torch}/lib/libc10_cuda.so
      -Wl,--as-needed CUDA::cudart)
    # cuDNN's attention is used where its headers (CUDA toolkit) and those of its graph API (PyPI) are there.
    find_path(FINETUNED_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(FINETUNED_CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
    find_path(FINETUNED_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
              HINTS ${FINETUNED_SITE_PACKAGES}/include NO_DEFAULT_PATH)
    if(FINETUNED_CUDNN_INCLUDE AND FINETUNED_CUDNN_LIBRARY AND FINETUNED_CUDNN_FRONTEND_INCLUDE)
      add_library(ft_cudnn INTERFACE)
      target_include_directories(ft_cudnn SYSTEM INTERFACE ${FINETUNED_CUDNN_INCLUDE}
                                 ${FINETUNED_CUDNN_FRONTEND_INCLUDE})
      target_link_libraries(ft_cudnn INTERFACE ${FINETUNED_CUDNN_LIBRARY} CUDA::nvrtc
                            CUDA::cudart)
    endif()
    list(APPEND _rpath /usr/local/cuda/lib64 /usr/local/cuda/extras/CUPTI/lib64)
  endif()
  # Of the build tree only: what is installed gets its own (FinetunedPackage), without this machine's paths.
  set(CMAKE_BUILD_RPATH ${_rpath})
  list(JOIN _rpath ":" _rpath_joined)
  target_link_options(ft_torch INTERFACE -Wl,--allow-shlib-undefined -Wl,-rpath-link,${_rpath_joined})
endif()
