// Q-Guided Flow as plainly as it can be written, in any precision: what the native sampler is held
// to on shapes that nobody would train. The same algorithm as training/sampling.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "question.h"

namespace reference {

template <class R>
using Vec = std::vector<R>;

// One MLP of one member, with what its reverse pass needs.
template <class R>
class Mlp {
 public:
  Mlp(const std::vector<Layer>& layers, int member) : layers_(layers), member_(member) {}

  Vec<R> forward(Vec<R> x) {
    tape_.clear();
    for (size_t i = 0; i < layers_.size(); ++i) {
      x = linear(layers_[i], x);
      if (i + 1 < layers_.size()) x = activate(layers_[i], x);
    }
    return x;
  }

  // d (output 0) / d (input), times `g`, for the last forward pass.
  Vec<R> backward(R g) const {
    Vec<R> y{g};
    for (size_t i = layers_.size(); i-- > 0;) {
      const Layer& layer = layers_[i];
      if (i + 1 < layers_.size()) {
        const Tape& tape = tape_[i];
        const int width = layer.out;
        R mean = 0, along = 0;
        for (int o = 0; o < width; ++o) {
          y[o] *= tape.slope[o] * R(layer.scale[member_ * width + o]);
          mean += y[o] / width;
          along += y[o] * tape.unit[o] / width;
        }
        for (int o = 0; o < width; ++o) y[o] = tape.inverse_std * (y[o] - mean - tape.unit[o] * along);
      }
      Vec<R> x(layer.in, R(0));
      const float* w = layer.weight + size_t(member_) * layer.in * layer.out;
      for (int k = 0; k < layer.in; ++k)
        for (int o = 0; o < layer.out; ++o) x[k] += R(w[size_t(k) * layer.out + o]) * y[o];
      y = x;
    }
    return y;
  }

 private:
  struct Tape {
    Vec<R> unit, slope;
    R inverse_std = 1;
  };

  Vec<R> linear(const Layer& layer, const Vec<R>& x) const {
    const float* w = layer.weight + size_t(member_) * layer.in * layer.out;
    const float* b = layer.bias + size_t(member_) * layer.out;
    Vec<R> y(b, b + layer.out);
    for (int k = 0; k < layer.in; ++k)
      for (int o = 0; o < layer.out; ++o) y[o] += R(w[size_t(k) * layer.out + o]) * x[k];
    return y;
  }

  Vec<R> activate(const Layer& layer, Vec<R> x) {
    const int width = layer.out;
    Tape tape;
    if (layer.scale) {
      R mean = 0, square = 0;
      for (R v : x) mean += v / width;
      for (R v : x) square += (v - mean) * (v - mean) / width;
      tape.inverse_std = 1 / std::sqrt(square + R(1e-6));
      tape.unit.resize(width);
      for (int o = 0; o < width; ++o) {
        tape.unit[o] = (x[o] - mean) * tape.inverse_std;
        x[o] = tape.unit[o] * R(layer.scale[member_ * width + o]) + R(layer.shift[member_ * width + o]);
      }
    }
    tape.slope.resize(width);
    for (int o = 0; o < width; ++o) {
      const R c = std::sqrt(R(2) / R(3.14159265358979323846)), a = R(0.044715), v = x[o];
      const R t = std::tanh(c * (v + a * v * v * v));
      tape.slope[o] = R(0.5) * (1 + t) + R(0.5) * v * (1 - t * t) * c * (1 + 3 * a * v * v);
      x[o] = R(0.5) * v * (1 + t);
    }
    tape_.push_back(std::move(tape));
    return x;
  }

  const std::vector<Layer>& layers_;
  int member_;
  std::vector<Tape> tape_;
};

template <class R>
struct Critic {
  Critic(const Net& net, const float* obs) : net(net), obs(obs) {
    for (int e = 0; e < net.shape.members; ++e) members.emplace_back(net.critic, e);
  }

  Vec<R> q(const Vec<R>& action) {  // the members'
    Vec<R> x(obs, obs + net.shape.obs), values;
    x.insert(x.end(), action.begin(), action.end());
    for (auto& member : members) {
      const R raw = member.forward(x)[0];
      values.push_back(net.shape.bounded ? 1 / (1 + std::exp(-raw)) : raw);
    }
    return values;
  }

  static R mean(const Vec<R>& q) {
    R sum = 0;
    for (R v : q) sum += v;
    return sum / R(q.size());
  }
  static R std(const Vec<R>& q) {
    R sum = 0;
    for (R v : q) sum += (v - mean(q)) * (v - mean(q));
    return std::sqrt(sum / R(q.size()));
  }
  R aggregate(const Vec<R>& q) const {
    if (net.shape.aggregation == QGF_MIN) return *std::min_element(q.begin(), q.end());
    return mean(q) - R(net.shape.deviations) * std(q);
  }

  // (D,) of the aggregated Q, for the last values `q`.
  Vec<R> gradient(const Vec<R>& q) const {
    Vec<R> g(net.shape.action, R(0));
    const size_t smallest = std::min_element(q.begin(), q.end()) - q.begin();
    const R spread = std(q), E = R(q.size());
    for (size_t e = 0; e < q.size(); ++e) {
      R share = R(e == smallest);
      if (net.shape.aggregation == QGF_MEAN)
        share = 1 / E - (spread > 0 ? R(net.shape.deviations) * (q[e] - mean(q)) / (E * spread) : 0);
      if (share == 0) continue;
      if (net.shape.bounded) share *= q[e] * (1 - q[e]);
      const Vec<R> x = members[e].backward(share);
      for (int d = 0; d < net.shape.action; ++d) g[d] += x[net.shape.obs + d];
    }
    return g;
  }

  const Net& net;
  const float* obs;
  std::vector<Mlp<R>> members;
};

template <class R>
R norm(const Vec<R>& x) {
  R sum = 0;
  for (R v : x) sum += v * v;
  return std::sqrt(sum);
}

// One candidate, guided by `weight`. Adds what guards did to `acted`.
template <class R>
Vec<R> integrate(const Net& net, const qgf_request& ask, int row, R weight, R& gradient_norm,
                 R& velocity_norm, int& acted) {
  const int D = net.shape.action, T = net.shape.steps, F = net.shape.time_features;
  Mlp<R> velocity(net.velocity, 0);
  Critic<R> critic(net, ask.obs);
  const float* noise = ask.noise + size_t(row) * D;
  Vec<R> a(noise, noise + D);
  gradient_norm = velocity_norm = 0;
  for (int k = 0; k < T; ++k) {
    Vec<R> x(ask.obs, ask.obs + net.shape.obs);
    x.insert(x.end(), a.begin(), a.end());
    x.insert(x.end(), net.times + k * F, net.times + (k + 1) * F);
    Vec<R> v = velocity.forward(x);
    for (int d = 0; d < ask.held; ++d) v[d] = R(ask.committed[d]) - R(noise[d]);
    velocity_norm += norm(v) / T;
    Vec<R> g(D, R(0));
    if (weight > 0) {
      Vec<R> a_hat(D);
      for (int d = 0; d < D; ++d)
        a_hat[d] = std::clamp(a[d] + (1 - R(k) / T) * v[d], R(-1), R(1));
      const Vec<R> q = critic.q(a_hat);
      g = critic.gradient(q);
      for (int d = 0; d < D; ++d)
        if (d < ask.held || (ask.guide && !ask.guide[k * D + d])) g[d] = 0;
      auto drop = [&](int d, int why) {
        if (g[d] != 0) acted |= why;
        g[d] = 0;
      };
      if (ask.disagreement < std::numeric_limits<float>::infinity() &&
          !(critic.std(q) <= R(ask.disagreement)))
        for (int d = 0; d < D; ++d) drop(d, 2);
      for (int d = 0; ask.low && d < D; ++d)
        if ((a_hat[d] >= R(ask.high[d]) && g[d] > 0) || (a_hat[d] <= R(ask.low[d]) && g[d] < 0)) drop(d, 1);
      const R push = weight * norm(g), limit = R(ask.ratio_cap) * norm(v);
      if (push > limit) {
        acted |= 4;
        for (R& value : g) value *= limit / push;
      }
    }
    gradient_norm += norm(g) / T;
    for (int d = 0; d < D; ++d) a[d] += (v[d] + weight * g[d]) / T;
  }
  for (int d = 0; d < D; ++d)
    a[d] = d < ask.held ? R(ask.committed[d]) : std::clamp(a[d], R(-1), R(1));
  return a;
}

template <class R>
Answer answer(const Net& net, const qgf_request& ask) {
  Answer out(net.shape.action, ask.candidates);
  Critic<R> critic(net, ask.obs);
  for (int n = 0; n < ask.candidates; ++n) {
    R gradient_norm = 0, velocity_norm = 0, ignored = 0;
    int acted = 0;
    const Vec<R> plain = integrate<R>(net, ask, n, 0, ignored, velocity_norm, acted);
    const Vec<R> guided = integrate<R>(net, ask, n, R(ask.weight), gradient_norm, velocity_norm, acted);
    const Vec<R> q = critic.q(guided);
    std::copy(guided.begin(), guided.end(), out.of(ACTION) + n * net.shape.action);
    std::copy(plain.begin(), plain.end(), out.of(ACTION_UNGUIDED) + n * net.shape.action);
    out.of(Q)[n] = critic.aggregate(q);
    out.of(Q_STD)[n] = critic.std(q);
    out.of(Q_UNGUIDED)[n] = critic.aggregate(critic.q(plain));
    out.of(GRADIENT_NORM)[n] = gradient_norm;
    out.of(GUIDANCE_RATIO)[n] =
        R(ask.weight) * gradient_norm / std::max(velocity_norm, R(std::numeric_limits<float>::min()));
    out.of(ACTED)[n] = acted;
  }
  return out;
}

}  // namespace reference
