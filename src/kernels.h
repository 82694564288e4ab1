// What a sampler spends its time in, as a table of functions: one table per instruction set.
//
// A file that is compiled for a newer processor must not define anything that another file may
// use too (the linker keeps one of several equal inline functions, perhaps the one that this
// processor cannot run). So these files define nothing but their table, include no C++ library
// header, and take plain pointers.
#pragma once

#include <stddef.h>
#include <stdint.h>

// A function that is always compiled into its caller.
#define QGF_OP static inline __attribute__((always_inline))

namespace qgf {

// Rows of every buffer begin at a multiple of so many floats, and are filled up with zeros.
constexpr int kAlign = 16;
// Columns of a panel, in vectors; also how many inputs the reverse pass takes at once.
constexpr int kPanel = 8;

// Weights (in, out), stored once for both directions: panels of kPanel vectors of columns, side by
// side, each (in, columns) and contiguous, `in` filled up with zero rows to a multiple of kAlign
// and the last panel's columns with zeros to whole vectors. The forward pass adds up rows, the
// reverse pass takes dot products with them.
struct Matrix {
  void *data;
  int in, out;
};

// Rows of numbers: row r begins at data + r * stride. A stride of 0 is the same row for all.
struct Rows {
  float *data;
  ptrdiff_t stride;
};

// What the reverse pass of a hidden layer needs of its forward pass, for one row.
struct Tape {
  float *unit;   // (W,) normalised, before scale and shift
  float *slope;  // (W,) of GELU, times the scale
  float inverse_std;
};

struct Kernels {
  const char *name;
  int lanes;  // floats of a vector

  // y = start + x W for each row. [0]: float32 weights, [1]: float16.
  void (*forward[2])(const Matrix &w, int rows, Rows x, Rows start, Rows y);
  // y = W g for each row.
  void (*backward[2])(const Matrix &w, int rows, Rows g, Rows y);
  // x = GELU(norm(x) * scale + shift), in place; scale NULL: no norm. tape: (rows,), or NULL.
  void (*hidden)(int width, const float *scale, const float *shift, int rows, Rows x, Tape *tape);
  // g = the gradient before that layer's norm, from the one behind its GELU, in place.
  void (*hidden_back)(int width, const Tape &tape, float *g);
  float (*dot)(int width, const float *a, const float *b);
};

extern const Kernels kGeneric, kAvx2, kAvx512,
    kNeon;  // those of this build: see `instruction_sets`

}  // namespace qgf
