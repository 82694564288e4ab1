// A network, a request and an answer as the C interface has them, with the memory that they need.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "fence.h"
#include "qgf_sampler.h"

struct Layer : qgf_layer {
  int in, out;
};

struct Net {
  qgf_shape shape{};
  std::vector<int32_t> velocity_width, critic_width;
  std::vector<Layer> velocity, critic;  // with the linear ones at the end
  float* times = nullptr;
  Pool pool;

  // Memory for all of `shape` and the widths, to be filled.
  void allocate() {
    pool.reset();
    shape.abi = QGF_ABI;
    shape.velocity_layers = int32_t(velocity_width.size());
    shape.critic_layers = int32_t(critic_width.size());
    shape.velocity_width = velocity_width.data();
    shape.critic_width = critic_width.data();
    const int both = shape.obs + shape.action;
    velocity = layers(both + shape.time_features, velocity_width, shape.action, 1, 1);
    critic = layers(both, critic_width, 1, shape.members, 0);
    times = pool.place<float>(size_t(shape.steps) * shape.time_features);
  }

  // Calls fill(numbers, count, fan_in, mean) for every array; fan_in is 0 where it is no weight.
  template <class Fill>
  void fill(Fill fill) {
    for (int critics = 0; critics < 2; ++critics) {
      const size_t E = critics ? shape.members : 1;
      for (Layer& layer : critics ? critic : velocity) {
        fill(const_cast<float*>(layer.weight), E * layer.in * layer.out, layer.in, 0);
        fill(const_cast<float*>(layer.bias), E * layer.out, 0, 0);
        if (!layer.scale) continue;
        fill(const_cast<float*>(layer.scale), E * layer.out, 0, 1);
        fill(const_cast<float*>(layer.shift), E * layer.out, 0, 0);
      }
    }
    fill(times, size_t(shape.steps) * shape.time_features, 0, 0);
  }

  qgf_sampler* create(std::string* why = nullptr) const {
    std::vector<qgf_layer> v(velocity.begin(), velocity.end()), c(critic.begin(), critic.end());
    char error[256] = "";
    qgf_sampler* sampler = qgf_create(&shape, v.data(), c.data(), times, error, sizeof error);
    if (why) *why = error;
    return sampler;
  }

 private:
  std::vector<Layer> layers(int in, const std::vector<int32_t>& widths, int out, size_t E, size_t plain) {
    std::vector<Layer> made;
    for (size_t i = 0; i <= widths.size(); ++i) {
      Layer layer{};
      layer.in = i ? widths[i - 1] : in;
      layer.out = i < widths.size() ? widths[i] : out;
      layer.weight = pool.place<float>(E * layer.in * layer.out);
      layer.bias = pool.place<float>(E * layer.out);
      if (i + plain < widths.size()) {
        layer.scale = pool.place<float>(E * layer.out);
        layer.shift = pool.place<float>(E * layer.out);
      }
      made.push_back(layer);
    }
    return made;
  }
};

// In the order of `qgf_result`.
enum Output { ACTION, Q, ACTION_UNGUIDED, Q_UNGUIDED, Q_STD, GRADIENT_NORM, GUIDANCE_RATIO, ACTED, OUTPUTS };
inline constexpr const char* OUTPUT_NAMES[OUTPUTS] = {
    "action", "q", "action_unguided", "q_unguided", "q_std", "gradient_norm", "guidance_ratio", "acted"};

inline size_t width_of(int output, int action) {
  return output == ACTION || output == ACTION_UNGUIDED ? size_t(action) : 1;
}

// Numbers of all outputs in double precision: what is expected.
struct Answer {
  Answer(int action, int candidates) {
    for (int o = 0; o < OUTPUTS; ++o) numbers.emplace_back(width_of(o, action) * candidates);
  }
  double* of(int output) { return numbers[output].data(); }
  const double* of(int output) const { return numbers[output].data(); }
  std::vector<std::vector<double>> numbers;
};

// Fenced memory for the outputs named in `mask`, one bit each; the others are NULL.
struct Outputs {
  Outputs(int action, int candidates, unsigned mask = ~0u) : action(action), candidates(candidates) {
    for (int o = 0; o < OUTPUTS; ++o)
      numbers[o] = mask >> o & 1 ? pool.place<float>(width_of(o, action) * candidates) : nullptr;
    result = {numbers[ACTION], numbers[Q], numbers[ACTION_UNGUIDED], numbers[Q_UNGUIDED],
              numbers[Q_STD], numbers[GRADIENT_NORM], numbers[GUIDANCE_RATIO], numbers[ACTED]};
  }
  bool untouched() const {
    for (int o = 0; o < OUTPUTS; ++o) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(numbers[o]);
      for (size_t i = 0; bytes && i < width_of(o, action) * candidates * sizeof(float); ++i)
        if (bytes[i] != Fence::FILL) return false;
    }
    return true;
  }
  int action, candidates;
  float* numbers[OUTPUTS];
  qgf_result result{};
  Pool pool;
};
