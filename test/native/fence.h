// Buffers that end where readable memory ends: one number too many, read or written, is a fault
// also in instructions that AddressSanitizer does not see (masked loads and stores), and on any
// architecture. In front of each lie bytes that must stay as they are.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>

class Fence {
 public:
  Fence() = default;
  Fence(const Fence&) = delete;
  ~Fence() {
    if (base_) munmap(base_, mapped_);
  }

  // Room for `bytes` that ends at the fence, filled with `FILL`.
  void* place(size_t bytes) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    if (!base_ || bytes + FRONT > mapped_ - page) {
      if (base_) munmap(base_, mapped_);
      mapped_ = (bytes + FRONT + page - 1) / page * page + page;
      void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + mapped_ - page, page, PROT_NONE)) {
        std::perror("mmap");
        std::abort();
      }
      base_ = static_cast<unsigned char*>(memory);
    }
    start_ = base_ + mapped_ - page - bytes;
    std::memset(start_ - FRONT, FILL, bytes + FRONT);
    return start_;
  }

  bool front_is_whole() const {
    for (size_t i = 1; i <= FRONT; ++i)
      if (start_[-std::ptrdiff_t(i)] != FILL) return false;
    return true;
  }

  static constexpr unsigned char FILL = 0xA5;

 private:
  static constexpr size_t FRONT = 256;
  unsigned char *base_ = nullptr, *start_ = nullptr;
  size_t mapped_ = 0;
};

// Fences that are used again for the next question.
class Pool {
 public:
  template <class T>
  T* place(size_t count) {
    if (used_ == fences_.size()) fences_.emplace_back();
    return static_cast<T*>(fences_[used_++].place(count * sizeof(T)));
  }
  void reset() { used_ = 0; }
  bool fronts_are_whole() const {
    for (size_t i = 0; i < used_; ++i)
      if (!fences_[i].front_is_whole()) return false;
    return true;
  }

 private:
  std::deque<Fence> fences_;
  size_t used_ = 0;
};
