#include "networks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

namespace qgf {
namespace {

constexpr float kLargestHalf = 65504.0f;

// IEEE binary32 -> binary16, to the nearest, ties to even; |value| <= kLargestHalf.
uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest < 0x38800000u)  // below 2^-14: counted in 2^-24
    return static_cast<uint16_t>(sign |
                                 static_cast<uint32_t>(std::nearbyint(std::fabs(value) * 0x1p24f)));
  const uint32_t odd = rest >> 13 & 1u;
  return static_cast<uint16_t>(sign | ((rest + 0xfffu + odd - (112u << 23)) >> 13));
}

bool copy(float *to, const float *from, int count) {
  std::copy(from, from + count, to);
  return std::all_of(from, from + count, [](float value) { return std::isfinite(value); });
}

// The vectors behind a linear map, of one member of E.
bool copy(const Layer &layer, const qgf_layer &from, int member) {
  const int width = layer.weight.out;
  const ptrdiff_t at = static_cast<ptrdiff_t>(member) * width;
  return copy(layer.bias, from.bias + at, width) &&
         (!layer.scale ||
          (copy(layer.scale, from.scale + at, width) && copy(layer.shift, from.shift + at, width)));
}

Matrix matrix(int in, int out) { return {nullptr, in, out}; }

}  // namespace

Networks *Networks::pack(const qgf_shape &shape, const Kernels &kernels, const qgf_layer *velocity,
                         const qgf_layer *critic, const float *times, std::string *error) {
  auto made = std::make_unique<Networks>();
  Networks &n = *made;
  n.kernels = &kernels;
  n.obs = shape.obs, n.action = shape.action, n.steps = shape.steps, n.members = shape.members;
  n.aggregation = shape.aggregation, n.deviations = shape.deviations;
  n.bounded = shape.bounded != 0, n.half = shape.precision == QGF_FLOAT16;
  n.velocity_width.assign(shape.velocity_width, shape.velocity_width + shape.velocity_layers);
  n.critic_width.assign(shape.critic_width, shape.critic_width + shape.critic_layers);
  const auto mlp = [&](const std::vector<int> &width) {
    Mlp net{matrix(n.obs, width[0]), {}};
    int in = n.action;
    for (const int out : width) {
      net.layer.push_back({matrix(in, out), nullptr, nullptr, nullptr});
      in = out;
    }
    return net;
  };
  n.velocity = mlp(n.velocity_width);
  n.velocity.layer.push_back(
      {matrix(n.velocity_width.back(), n.action), nullptr, nullptr, nullptr});
  n.critic.assign(static_cast<size_t>(n.members), mlp(n.critic_width));
  n.output.resize(n.critic.size());
  n.output_bias.resize(n.critic.size());
  n.lay_out();
  if (!n.arena_.allocate()) {
    *error = "no memory for the weights";
    return nullptr;
  }
  n.lay_out();
  if (!n.fill(velocity, critic, times, shape.time_features)) {
    *error = n.half ? "a weight is not finite, or beyond 65504, the largest number of float16"
                    : "a weight is not finite";
    return nullptr;
  }
  return made.release();
}

int Networks::widest() const {
  int widest = action;
  for (const auto *widths : {&velocity_width, &critic_width})
    for (const int width : *widths) widest = std::max(widest, width);
  return widest;
}

// In the order in which a step reads them. Called twice: to count, and when the memory is there.
void Networks::lay_out() {
  const auto matrix = [&](Matrix &m) {
    const int64_t count = round_up(m.in, kAlign) * round_up(m.out, kernels->lanes);
    if (half)
      m.data = arena_.take<uint16_t>(count);
    else
      m.data = arena_.take<float>(count);
  };
  const auto layer = [&](Layer &l, bool normed) {
    matrix(l.weight);
    l.bias = arena_.take<float>(stride_of(l.weight.out));
    if (normed) {
      l.scale = arena_.take<float>(stride_of(l.weight.out));
      l.shift = arena_.take<float>(stride_of(l.weight.out));
    }
  };
  for (size_t l = 0; l < velocity.layer.size(); l++)
    layer(velocity.layer[l], l + 1 < velocity_width.size());
  for (size_t e = 0; e < critic.size(); e++) {
    for (Layer &l : critic[e].layer) layer(l, true);
    output[e] = arena_.take<float>(stride_of(critic_width.back()));
  }
  by_step = arena_.take<float>(steps * stride_of(velocity_width[0]));
  matrix(velocity.obs);
  for (Mlp &member : critic) matrix(member.obs);
  bytes_ = arena_.used();
}

bool Networks::fill(const qgf_layer *v, const qgf_layer *c, const float *times, int features) {
  const ptrdiff_t width = velocity_width[0];
  bool sound =
      fill(velocity.obs, v[0].weight) && fill(velocity.layer[0].weight, v[0].weight + obs * width);
  for (size_t l = 0; l < velocity.layer.size() && sound; l++)
    sound =
        (l == 0 || fill(velocity.layer[l].weight, v[l].weight)) && copy(velocity.layer[l], v[l], 0);
  const float *of_time = v[0].weight + (obs + action) * width;
  for (int k = 0; k < steps && sound; k++)
    for (ptrdiff_t j = 0; j < width && sound; j++) {
      double value = v[0].bias[j];
      for (int i = 0; i < features; i++)
        value += static_cast<double>(times[static_cast<ptrdiff_t>(k) * features + i]) *
                 of_time[i * width + j];
      by_step[k * stride_of(width) + j] = static_cast<float>(value);
      sound = std::isfinite(by_step[k * stride_of(width) + j]);
    }
  for (int e = 0; e < members && sound; e++) {
    Mlp &member = critic[e];
    const ptrdiff_t out = critic_width[0];
    const float *first = c[0].weight + e * (obs + action) * out;
    sound = fill(member.obs, first) && fill(member.layer[0].weight, first + obs * out);
    for (size_t l = 0; l < member.layer.size() && sound; l++) {
      const Matrix &m = member.layer[l].weight;
      sound = (l == 0 || fill(m, c[l].weight + static_cast<ptrdiff_t>(e) * m.in * m.out)) &&
              copy(member.layer[l], c[l], e);
    }
    const qgf_layer &last = c[member.layer.size()];
    const int in = critic_width.back();
    sound = sound && copy(output[e], last.weight + static_cast<ptrdiff_t>(e) * in, in) &&
            copy(&output_bias[e], last.bias + e, 1);
  }
  return sound;
}

// The layout is `Matrix`'s.
bool Networks::fill(const Matrix &to, const float *from) {
  const int panel = kPanel * kernels->lanes;
  const auto rows = static_cast<ptrdiff_t>(round_up(to.in, kAlign));
  const int out = static_cast<int>(round_up(to.out, kernels->lanes));
  for (int start = 0; start < out; start += panel) {
    const int columns = std::min(panel, out - start), given = std::min(columns, to.out - start);
    for (int i = 0; i < to.in; i++)
      for (int j = 0; j < given; j++) {
        const float value = from[static_cast<ptrdiff_t>(i) * to.out + start + j];
        const ptrdiff_t at = rows * start + static_cast<ptrdiff_t>(i) * columns + j;
        if (!(std::fabs(value) <= (half ? kLargestHalf : std::numeric_limits<float>::max())))
          return false;
        if (half)
          static_cast<uint16_t *>(to.data)[at] = to_half(value);
        else
          static_cast<float *>(to.data)[at] = value;
      }
  }
  return true;
}

}  // namespace qgf
