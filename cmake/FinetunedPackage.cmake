# `cpack -G DEB` in the build directory; deploy/package/make_bundle.sh makes the portable tar file of the same tree.
# LibTorch (about 1.5 GB) is in neither: finetuned-install-libtorch puts the pinned wheels where the worker's RUNPATH
# points.
if(TARGET finetune-worker)
  set(_torch_rpath "")
  foreach(_dir torch/lib nvidia/cu13/lib nvidia/cudnn/lib nvidia/cusparselt/lib nvidia/nvshmem/lib)
    list(APPEND _torch_rpath "$ORIGIN/../lib/finetuned/libtorch/${_dir}")
  endforeach()
  set_target_properties(finetune-worker PROPERTIES
    INSTALL_RPATH "${_torch_rpath};/usr/local/cuda/lib64;/usr/local/cuda/extras/CUPTI/lib64")
endif()
# The same pins as deploy/install_deps.sh, from its text.
file(STRINGS deploy/install_deps.sh _pins REGEX "==")
string(REGEX MATCHALL "(torch|nvidia-[a-z0-9-]+)==[0-9.]+" _pins "${_pins}")
string(REPLACE ";" "\n" _pins "${_pins}")
file(WRITE ${CMAKE_BINARY_DIR}/libtorch.txt "${_pins}\n")

install(PROGRAMS deploy/package/finetuned-install-libtorch DESTINATION bin)
install(FILES ${CMAKE_BINARY_DIR}/libtorch.txt deploy/prometheus/prometheus.yml
        deploy/prometheus/alert_rules.yml deploy/grafana/finetuned.json DESTINATION share/finetuned)
install(PROGRAMS deploy/slurm/finetune.sbatch DESTINATION share/finetuned)
install(DIRECTORY deploy/kubernetes DESTINATION share/finetuned)
install(FILES README.md SECURITY.md DESTINATION share/doc/finetuned)
install(DIRECTORY docs DESTINATION share/doc/finetuned FILES_MATCHING PATTERN "*.md" PATTERN "*.png" PATTERN "*.svg")
install(DIRECTORY deploy/examples deploy/samples DESTINATION share/doc/finetuned/deploy)
install(FILES deploy/systemd/finetuned.service DESTINATION lib/systemd/system)
install(FILES deploy/systemd/finetuned.sysusers DESTINATION lib/sysusers.d RENAME finetuned.conf)
install(FILES deploy/systemd/finetuned.tmpfiles DESTINATION lib/tmpfiles.d RENAME finetuned.conf)
install(FILES deploy/package/config.yaml DESTINATION /etc/finetuned)

set(CPACK_PACKAGE_NAME finetuned)
set(CPACK_PACKAGE_VENDOR finetuned)
set(CPACK_PACKAGE_CONTACT "finetuned maintainers <root@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Fine-tuning daemon for one GPU")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR DEB)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS OFF)  # LibTorch belongs to no package; the list is by hand
set(CPACK_DEBIAN_PACKAGE_DEPENDS
    "libc6, libstdc++6, libgomp1, libgrpc++1.51, libgrpc29, libprotobuf32, libabsl20220623, libsqlite3-0, libyaml-cpp0.7, libprometheus-cpp-core1.0, libprometheus-cpp-pull1.0, libcivetweb1, libpcre2-8-0, libre2-9, libutf8proc2, libssl3, zlib1g, python3-venv")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
    "${CMAKE_SOURCE_DIR}/deploy/package/conffiles;${CMAKE_SOURCE_DIR}/deploy/package/postinst;${CMAKE_SOURCE_DIR}/deploy/package/prerm")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
