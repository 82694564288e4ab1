// Checks the native sampler by its C interface: `make native-check`.
//
//   check cases FILE [WORK]   answers of training's reference sampler, written by cases.py; of each
//                             network evenly so many that they touch WORK million weights at most
//   check fuzz SEED COUNT     random networks and requests, against reference.h
//   check refusals            what does not fit
#include "check.h"

#include <cstdarg>
#include <cstdlib>
#include <cstring>

namespace {
long failed = 0;
size_t allocated = 0;
}  // namespace

void fail(const char* format, ...) {
  if (++failed > 20) return;
  va_list arguments;
  va_start(arguments, format);
  std::fputs("FAILED: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
}

long failures() { return failed; }

#ifdef QGF_COUNT_ALLOCATIONS
// GCC has it in its library, and no header that declares it.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t),
                                                         void (*)(const volatile void*));
static void count_allocations() {
  __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t bytes) { allocated += bytes; },
                                            [](const volatile void*) {});
}
#else
static void count_allocations() {}
#endif

size_t allocated_bytes() { return allocated; }

std::vector<std::string> isas() {
  std::vector<std::string> names;
  std::string all = qgf_isas();
  for (size_t at = 0; at <= all.size();) {
    const size_t end = std::min(all.find(',', at), all.size());
    names.push_back(all.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

double error_of(const Outputs& got, const Answer& expected, int row, double tolerance, int* output) {
  double worst = 0;
  for (int o = 0; o < OUTPUTS; ++o) {
    const size_t width = width_of(o, got.action);
    for (size_t i = row * width; i < (row + 1) * width; ++i) {
      const double want = expected.of(o)[i], scale = width > 1 ? 1 : std::max(1.0, std::abs(want));
      if (std::isnan(want)) continue;
      const double error = std::abs(got.numbers[o][i] - want) / (tolerance * scale);
      if (error <= worst) continue;
      worst = error;
      if (output) *output = o;
    }
  }
  return worst;
}

int main(int count, char** arguments) {
  count_allocations();
  const char* what = count > 1 ? arguments[1] : "";
  if (qgf_abi() != QGF_ABI) fail("qgf_abi() is %d, the header says %d", qgf_abi(), QGF_ABI);
  if (!std::strcmp(what, "cases") && (count == 3 || count == 4)) {
    check_cases(arguments[2], count == 4 ? 1e6 * std::atof(arguments[3]) : 1e300);
  } else if (!std::strcmp(what, "fuzz") && count == 4) {
    check_fuzz(std::strtoull(arguments[2], nullptr, 10), std::atol(arguments[3]));
  } else if (!std::strcmp(what, "refusals") && count == 2) {
    check_refusals();
  } else {
    std::fprintf(stderr, "usage: check cases FILE [WORK] | fuzz SEED COUNT | refusals\n");
    return 2;
  }
  if (failed) std::fprintf(stderr, "%ld failed\n", failed);
  return failed ? 1 : 0;
}
