#!/usr/bin/env bash
# Makes finetuned-VERSION-linux-x86_64.tar.gz: the programs with every library they need but glibc, LibTorch and CUDA.
# It runs from any folder of a Linux with glibc 2.36 or newer (Debian 12, Ubuntu 24.04). Needs patchelf.
# Usage: make_bundle.sh BUILD_DIR [OUTPUT_DIR]
set -euo pipefail
build=$(cd "$1" && pwd)
out=$(cd "${2:-$build}" && pwd)
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$build/CMakeCache.txt")
name=finetuned-$version-linux-$(uname -m)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/$name
DESTDIR=$stage/install cmake --install "$build" --prefix /usr --strip >/dev/null
mv "$stage/install/usr" "$root"
mkdir -p "$root/lib/finetuned/lib" "$root/etc"
mv "$stage/install/etc/finetuned" "$root/etc/"

# glibc and its loader are the host's; LibTorch and CUDA come with finetuned-install-libtorch.
ours='^(libc|libm|libdl|librt|libpthread|libresolv|ld-linux-x86-64)\.so|^lib(torch|c10|cud|cublas|cufft|curand|cusolver|cusparse|nvrtc|nvJitLink|nvToolsExt|nccl|cupti|cufile|nvshmem)'
for program in finetuned finetune finetune-worker; do
  ldd "$build/bin/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  file=$(basename "$library")
  [[ $file =~ $ours || $library == */site-packages/* || $library == /usr/local/* ]] ||
    install -m 644 "$library" "$root/lib/finetuned/lib/$file"
done
for library in "$root"/lib/finetuned/lib/*; do patchelf --set-rpath '$ORIGIN' "$library"; done
for program in "$root"/bin/finetune*; do
  # Scripts have no RUNPATH.
  [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
  own=$(patchelf --print-rpath "$program")
  patchelf --set-rpath "\$ORIGIN/../lib/finetuned/lib${own:+:$own}" "$program"
done
# The licences of what was copied.
mkdir -p "$root/share/doc/finetuned/licenses"
for library in "$root"/lib/finetuned/lib/*; do
  package=$(dpkg-query -S "*/$(basename "$library")" 2>/dev/null | head -n 1 | cut -d: -f1)
  [ -z "$package" ] || cp -f "/usr/share/doc/$package/copyright" "$root/share/doc/finetuned/licenses/$package" 2>/dev/null || true
done
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -czf "$out/$name.tar.gz" "$name"
echo "$out/$name.tar.gz"
