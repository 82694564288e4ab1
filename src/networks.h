// The policy's networks, checked and packed as the kernels want them.
#pragma once

#include <string>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "qgf_sampler.h"

namespace qgf {

inline ptrdiff_t stride_of(int64_t n) { return static_cast<ptrdiff_t>(round_up(n, kAlign)); }

// A hidden layer and the linear map before it.
struct Layer {
  Matrix weight;
  float *bias;           // (out,)
  float *scale, *shift;  // (out,), NULL where it is not normalised
};

// The velocity, or one member of the critic. The first layer is split by input: the observation's
// share is computed once per sample, and `layer[0]` has the action's.
struct Mlp {
  Matrix obs;
  std::vector<Layer> layer;
};

struct Networks {
  const Kernels *kernels;
  int obs, action, steps, members, aggregation;
  float deviations;
  bool bounded, half;
  std::vector<int> velocity_width, critic_width;

  Mlp velocity;                 // hidden layers, then the output, which has no GELU
  float *by_step;               // (T, W): the times' shares of its first layer, and the bias
  std::vector<Mlp> critic;      // per member: hidden layers
  std::vector<float *> output;  // per member, (W,): to the one number that comes out
  std::vector<float> output_bias;

  // NULL where a number is not finite or does not fit into float16, or memory is short; `error`.
  static Networks *pack(const qgf_shape &shape, const Kernels &kernels, const qgf_layer *velocity,
                        const qgf_layer *critic, const float *times, std::string *error);

  int widest() const;
  int64_t bytes() const { return bytes_; }  // of the weights that a guided sample reads

 private:
  Arena arena_;
  int64_t bytes_ = 0;

  void lay_out();
  bool fill(const qgf_layer *velocity, const qgf_layer *critic, const float *times, int features);
  bool fill(const Matrix &matrix, const float *from);
};

}  // namespace qgf
