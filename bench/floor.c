/* Reads memory as fast as one core can: the floor under a sampler that must read its weights.
 *
 * Built by `floor.py` with the system's compiler for this very processor. Nobody knows beforehand
 * how many streams at once and which prefetch suit a memory system best, so there are several
 * kernels, and `floor.py` takes the fastest for each working set. */
#include <stddef.h>

typedef float vector __attribute__((vector_size(64))); /* one register of AVX-512, two of AVX2, four of NEON */

/* `streams` parts of a segment side by side, each asked for `ahead` bytes before it is read.
 * Four sums per stream, so that no addition waits for the one before. */
#define KERNEL(name, streams, ahead)                                                    \
  static vector name(const char *p, size_t bytes) {                                     \
    const size_t part = bytes / (streams) / 256 * 256;                                  \
    vector a = {0}, b = {0}, c = {0}, d = {0};                                          \
    for (size_t i = 0; i < part; i += 256)                                              \
      for (int s = 0; s < (streams); s++) {                                             \
        const char *r = p + s * part + i;                                               \
        if (ahead)                                                                      \
          for (int line = 0; line < 4; line++) __builtin_prefetch(r + (ahead) + 64 * line); \
        a += *(const vector *)r;                                                        \
        b += *(const vector *)(r + 64);                                                 \
        c += *(const vector *)(r + 128);                                                \
        d += *(const vector *)(r + 192);                                                \
      }                                                                                 \
    for (size_t i = (streams) * part; i + 64 <= bytes; i += 64) a += *(const vector *)(p + i); \
    return a + b + c + d;                                                               \
  }

KERNEL(one, 1, 0)
KERNEL(one_512, 1, 512)
KERNEL(one_1k, 1, 1024)
KERNEL(one_2k, 1, 2048)
KERNEL(one_4k, 1, 4096)
KERNEL(one_8k, 1, 8192)
KERNEL(two, 2, 0)
KERNEL(two_1k, 2, 1024)
KERNEL(two_2k, 2, 2048)
KERNEL(four, 4, 0)
KERNEL(four_2k, 4, 2048)
KERNEL(eight, 8, 0)

static vector (*const kernels[])(const char *, size_t) = {
    one, one_512, one_1k, one_2k, one_4k, one_8k, two, two_1k, two_2k, four, four_2k, eight,
};

int kernel_count(void) { return (int)(sizeof kernels / sizeof *kernels); }

typedef struct {
  size_t begin, bytes; /* from `base`, which is aligned to 64; both multiples of 64 */
} segment;

/* Reads the segments in order. The sum is returned so that no compiler leaves a read out. */
float read_all(int kernel, const char *base, const segment *segments, size_t count) {
  vector sum = {0};
  for (size_t i = 0; i < count; i++) sum += kernels[kernel](base + segments[i].begin, segments[i].bytes);
  float total = 0;
  for (int i = 0; i < 16; i++) total += sum[i];
  return total;
}
