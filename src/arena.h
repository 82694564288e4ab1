// One piece of memory for many arrays, counted first and then asked for once.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace qgf {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class Arena {
 public:
  Arena() = default;
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;
  ~Arena() { std::free(start_); }

  // Zeros, for as much as has been taken so far; what is taken from now on has an address.
  bool allocate() {
    // A huge page saves the processor hundreds of address translations in every pass.
    constexpr int64_t kHuge = int64_t{1} << 21;
    const int64_t alignment = used_ >= kHuge ? kHuge : 64;
    const auto size = static_cast<size_t>(round_up(used_ > 0 ? used_ : 1, alignment));
    start_ = static_cast<char *>(std::aligned_alloc(static_cast<size_t>(alignment), size));
    if (!start_) return false;
#ifdef __linux__
    if (alignment == kHuge) madvise(start_, size, MADV_HUGEPAGE);
#endif
    std::memset(start_, 0, size);
    used_ = 0;
    return true;
  }

  // nullptr before `allocate`.
  template <class T>
  T *take(int64_t count) {
    char *at = start_ ? start_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T *>(at);
  }

  int64_t used() const { return used_; }

 private:
  char *start_ = nullptr;
  int64_t used_ = 0;
};

}  // namespace qgf
