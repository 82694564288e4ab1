#!/usr/bin/env bash
# What is checked of the native sampler in C++, `make native-check`:
#   sanitized   AddressSanitizer, UBSan and, where it works, LeakSanitizer: every instruction set
#   installed   the library of the colcon build, as it is; and, emulated, on processors without
#               AVX-512 and without AVX
#   aarch64     cross-compiled and emulated: correctness only, an emulator's speed says nothing
# QGF_TEST_SCALE multiplies the number of random networks (1 by default).
set -euo pipefail
cd "$(dirname "$0")/../.."
scale=${QGF_TEST_SCALE:-1}
out=build/native
cases=$out/cases.bin
machine=$(uname -m)
mkdir -p "$out"

say() { echo "== native-check, $SECONDS s: $*"; }

need() { # need COMMAND DEBIAN_PACKAGE ...: all that is missing is named at once
  local missing=()
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null || missing+=("$2")
    shift 2
  done
  [ ${#missing[@]} = 0 ] && return
  echo "qgf: error[2]: missing on this machine: ${missing[*]}; run: sudo apt-get install ${missing[*]}" >&2
  exit 2
}

build() { # build NAME CMAKE_OPTION ...: a warning about src/ is an error
  local name=$1
  shift
  if ! { cmake -S test/native -B "$out/$name" "$@" && cmake --build "$out/$name" --parallel 2; } \
    >"$out/$name.log" 2>&1 || grep -q "$PWD/src/.*warning:" "$out/$name.log"; then
    cat "$out/$name.log" >&2
    return 1
  fi
}

sanitized() {
  local check=$out/sanitized/check leaks=1
  # Where addresses are more random than GCC 12's AddressSanitizer is ready for.
  if setarch -R true 2>/dev/null; then check="setarch -R $check"; fi
  export UBSAN_OPTIONS=print_stacktrace=1
  local said
  said=$(ASAN_OPTIONS=detect_leaks=1 $check refusals 2>&1) || true
  if grep -q "LeakSanitizer has encountered a fatal" <<<"$said"; then
    echo "LeakSanitizer does not work here (a traced process?): leaks are not looked for"
    leaks=0
  fi
  export ASAN_OPTIONS=detect_leaks=$leaks
  $check refusals && $check fuzz 1 $((10 * scale)) && $check cases "$cases" 15
}

installed() {
  local library
  library=$(find -L install -name libqgf_sampler.so -print -quit)
  if [ -z "$library" ]; then
    echo "the colcon build installed no native sampler" >&2
    return 1
  fi
  build installed -DQGF_LIBRARY="$PWD/$library"
  $out/installed/check cases "$cases"
  $out/installed/check fuzz 2 $((40 * scale))
  [ "$machine" = x86_64 ] || return 0
  # An inline function that a kernel file shared with others might be taken from it by the linker,
  # and then not every processor could run the others.
  local kernels shared
  for kernels in build/qgf_ros/src/CMakeFiles/qgf_sampler.dir/kernels_avx*.o; do
    shared=$(nm --defined-only "$kernels" | grep -v " [a-z] ")
    [ "$(wc -l <<<"$shared")" = 1 ] || { echo "$kernels defines more than its table: $shared" >&2; return 1; }
  done
  qemu-x86_64-static -cpu Haswell "$out/installed/check" fuzz 3 $((2 * scale)) 2>&1 | grep -v "TCG doesn't support"
  qemu-x86_64-static -cpu Nehalem "$out/installed/check" fuzz 4 $scale
}

aarch64() {
  build aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  local check="qemu-aarch64-static -L /usr/aarch64-linux-gnu $out/aarch64/check"
  $check refusals
  $check cases "$cases" 15
  $check fuzz 5 $((3 * scale))
}

need cmake cmake g++ g++
if [ "$machine" = x86_64 ]; then
  need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu qemu-aarch64-static qemu-user-static
fi
python test/native/cases.py "$cases"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
say "sanitized"
build sanitized "-DQGF_SANITIZE=address;undefined;float-cast-overflow"
(sanitized) >"$out/sanitized.out" 2>&1 &
say "installed"
(installed)
if [ "$machine" = x86_64 ]; then
  say "aarch64, emulated: correctness only"
  (aarch64)
fi
say "sanitized, what it said"
wait $! || { cat "$out/sanitized.out" >&2; exit 1; }
cat "$out/sanitized.out"
say "passed"
