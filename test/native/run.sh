#!/usr/bin/env bash
# Everything about the native sampler that needs a compiler of its own, `make native-check`:
#   sanitized   AddressSanitizer, UBSan and, where it works, LeakSanitizer: every instruction set
#   shipped     as it is installed; and, emulated, on processors without AVX-512 and without AVX
#   aarch64     cross-compiled and emulated: correctness only, an emulator's speed says nothing
# QGF_TEST_SCALE multiplies the number of random networks (1 by default).
set -euo pipefail
cd "$(dirname "$0")/../.."
scale=${QGF_TEST_SCALE:-1}
out=build/native
mkdir -p "$out"
trap 'echo "native-check: FAILED" >&2' ERR

say() { echo "== $* (${SECONDS} s)"; }

need() { # need COMMAND DEBIAN_PACKAGE ...: all that is missing is named at once
  local missing=()
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null || missing+=("$2")
    shift 2
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "qgf: error[2]: missing on this machine: ${missing[*]}; run: sudo apt-get install ${missing[*]}" >&2
    exit 2
  fi
}

build() { # build NAME CMAKE_OPTION ...
  local name=$1
  shift
  cmake -S test/native -B "$out/$name" "$@" >"$out/$name.log" 2>&1 &&
    cmake --build "$out/$name" --parallel 2 >>"$out/$name.log" 2>&1 ||
    { cat "$out/$name.log" >&2; return 1; }
  if grep -n "warning:" "$out/$name.log"; then
    echo "the compiler warns: see above" >&2
    return 1
  fi
}

machine=$(uname -m)
case $machine in
  x86_64) need cmake cmake g++ g++ aarch64-linux-gnu-g++ g++-aarch64-linux-gnu \
    qemu-aarch64-static qemu-user-static qemu-x86_64-static qemu-user-static ;;
  *) need cmake cmake g++ g++ ;;
esac

say "expected answers, by the reference sampler"
python test/native/cases.py "$out/cases.bin"

say "sanitized"
build sanitized "-DQGF_SANITIZE=address;undefined;float-cast-overflow"
check=$out/sanitized/check
export UBSAN_OPTIONS=print_stacktrace=1
leaks=1 # it cannot look at a process that is traced, as in some containers
ASAN_OPTIONS=detect_leaks=1 $check refusals >"$out/leaks.log" 2>&1 ||
  if grep -q "LeakSanitizer has encountered a fatal error" "$out/leaks.log"; then
    echo "LeakSanitizer does not work here: leaks are not looked for"
    leaks=0
  fi
export ASAN_OPTIONS=detect_leaks=$leaks
$check refusals
$check cases "$out/cases.bin"
$check fuzz 1 $((60 * scale))

say "shipped"
build shipped
$out/shipped/check cases "$out/cases.bin"
$out/shipped/check fuzz 2 $((200 * scale))

if [ "$machine" = x86_64 ]; then
  say "shipped, on processors without AVX-512 and without AVX, emulated"
  qemu-x86_64-static -cpu Haswell "$out/shipped/check" fuzz 3 $((10 * scale))
  qemu-x86_64-static -cpu Nehalem "$out/shipped/check" fuzz 4 $((20 * scale))

  say "aarch64, emulated: correctness only"
  build aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  arm() { qemu-aarch64-static -L /usr/aarch64-linux-gnu "$out/aarch64/check" "$@"; }
  arm refusals
  arm cases "$out/cases.bin"
  arm fuzz 5 $((20 * scale))
fi
say "native-check: passed"
