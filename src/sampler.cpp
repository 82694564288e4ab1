// Q-Guided Flow: `training/sampling.py` with estimator `qgf`, by which tests judge it.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace qgf {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
enum Acted { kSupport = 1, kDisagreement = 2, kRatioCap = 4 };

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// What is not a number stays so.
float clamp(float x) { return x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x; }

double norm(const float *x, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += static_cast<double>(x[i]) * x[i];
  return std::sqrt(sum);
}

}  // namespace

Sampler::Sampler(std::unique_ptr<Networks> networks) : n_(std::move(networks)) {
  const auto members = static_cast<size_t>(n_->members), layers = n_->critic_width.size();
  critic_seen_.resize(members);
  tape_.assign(members * layers, std::vector<Tape>(kBlock));
  raw_.resize(members * 2 * kBlock);
  share_.resize(members * kBlock);
  flow_norm_.resize(kBlock);
  gradient_norm_.resize(kBlock);
  acted_.resize(kBlock);
  order_.resize(members);
  rows_.reserve(kBlock);
}

bool Sampler::allocate() {
  lay_out();
  if (!arena_.allocate()) return false;
  lay_out();
  return true;
}

// Called twice: to count, and when the memory is there.
void Sampler::lay_out() {
  const ptrdiff_t wide = stride_of(n_->widest()), d = stride_of(n_->action);
  flow_seen_ = arena_.take<float>(stride_of(n_->velocity_width[0]));
  flow_start_ = arena_.take<float>(stride_of(n_->velocity_width[0]));
  a_ = arena_.take<float>(2 * kBlock * d);
  v_ = arena_.take<float>(2 * kBlock * d);
  a_hat_ = arena_.take<float>(kBlock * d);
  gradient_ = arena_.take<float>(kBlock * d);
  part_ = arena_.take<float>(kBlock * d);
  x_ = {arena_.take<float>(2 * kBlock * wide), wide};
  y_ = {arena_.take<float>(2 * kBlock * wide), wide};
  back_ = {arena_.take<float>(kBlock * wide), wide};
  for (float *&seen : critic_seen_) seen = arena_.take<float>(stride_of(n_->critic_width[0]));
  for (size_t i = 0; i < tape_.size(); i++)
    for (Tape &row : tape_[i]) {
      const ptrdiff_t width = stride_of(n_->critic_width[i % n_->critic_width.size()]);
      row.unit = arena_.take<float>(width);
      row.slope = arena_.take<float>(width);
    }
}

void Sampler::sample(const qgf_request &request, const qgf_result &result) {
  request_ = &request;
  const Rows seen{const_cast<float *>(request.obs), 0};  // only read
  const Kernels &k = *n_->kernels;
  std::fill(flow_start_, flow_start_ + stride_of(n_->velocity_width[0]), 0.0f);
  k.forward[n_->half](n_->velocity.obs, 1, seen, {flow_start_, 0}, {flow_seen_, 0});
  const bool judged = result.q || result.q_unguided || result.q_std;
  if (request.weight > 0 || judged)
    for (int e = 0; e < n_->members; e++)
      k.forward[n_->half](n_->critic[e].obs, 1, seen, {n_->critic[e].layer[0].bias, 0},
                          {critic_seen_[e], 0});
  for (int begin = 0; begin < request.candidates; begin += kBlock) {
    count_ = std::min(kBlock, request.candidates - begin);
    noise_ = request.noise + static_cast<ptrdiff_t>(begin) * n_->action;
    block(result, begin);
  }
}

void Sampler::block(const qgf_result &result, int begin) {
  const ptrdiff_t d = stride_of(n_->action);
  const int size = n_->action;
  guided_ = request_->weight > 0 ? count_ : 0;
  unguided_ = guided_ == 0 || result.action_unguided || result.q_unguided ? count_ : 0;
  const int rows = guided_ + unguided_;
  for (int r = 0; r < rows; r++) {
    const float *from = noise_ + static_cast<ptrdiff_t>(r % count_) * size;
    std::copy(from, from + size, a_ + r * d);
  }
  std::fill(flow_norm_.begin(), flow_norm_.end(), 0.0);
  std::fill(gradient_norm_.begin(), gradient_norm_.end(), 0.0);
  std::fill(acted_.begin(), acted_.end(), 0);
  const auto steps = static_cast<float>(n_->steps);
  for (int step = 0; step < n_->steps; step++) {
    velocity(step, rows);
    const bool guiding = guided_ && guides(step);
    if (guiding) guide(step);
    for (int r = 0; r < rows; r++) {
      const float *g = gradient_ + r * d;
      float *a = a_ + r * d, *v = v_ + r * d;
      if (r < count_) flow_norm_[r] += norm(v, size);  // guided rows, or the only ones
      if (guiding && r < guided_)
        for (int i = 0; i < size; i++) v[i] += request_->weight * g[i];
      for (int i = 0; i < size; i++) a[i] += v[i] / steps;
    }
  }
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < size; i++)
      a_[r * d + i] = i < request_->held ? request_->committed[i] : clamp(a_[r * d + i]);
  answer(result, begin);
}

// v = the velocity of the first rows of a at t = step / T.
void Sampler::velocity(int step, int rows) {
  const Kernels &k = *n_->kernels;
  const auto &layers = n_->velocity.layer;
  const ptrdiff_t d = stride_of(n_->action), width = stride_of(n_->velocity_width[0]);
  const float *time = n_->by_step + step * width;
  for (ptrdiff_t j = 0; j < width; j++) flow_start_[j] = flow_seen_[j] + time[j];
  Rows in = x_, out = y_;
  k.forward[n_->half](layers[0].weight, rows, {a_, d}, {flow_start_, 0}, in);
  for (size_t l = 1; l < layers.size(); l++) {
    k.hidden(layers[l - 1].weight.out, layers[l - 1].scale, layers[l - 1].shift, rows, in, nullptr);
    if (l + 1 == layers.size()) out = {v_, d};
    k.forward[n_->half](layers[l].weight, rows, in, {layers[l].bias, 0}, out);
    std::swap(in, out);
  }
  for (int r = 0; r < rows; r++)  // what is executed anyway runs straight to where it ends
    for (int i = 0; i < request_->held; i++)
      v_[r * d + i] =
          request_->committed[i] - noise_[static_cast<ptrdiff_t>(r % count_) * n_->action + i];
}

// Whether any number is guided in this step; where none is, the critic is not asked.
bool Sampler::guides(int step) const {
  if (request_->held >= n_->action) return false;
  if (!request_->guide) return true;
  const uint8_t *mask = request_->guide + static_cast<ptrdiff_t>(step) * n_->action;
  return std::any_of(mask + request_->held, mask + n_->action, [](uint8_t m) { return m != 0; });
}

// gradient = that of the aggregated Q at the one-step guess of the clean action, guarded.
void Sampler::guide(int step) {
  const ptrdiff_t d = stride_of(n_->action);
  const auto left = static_cast<float>(1.0 - static_cast<double>(step) / n_->steps);
  for (int r = 0; r < guided_; r++)
    for (int i = 0; i < n_->action; i++)
      a_hat_[r * d + i] = clamp(a_[r * d + i] + left * v_[r * d + i]);
  gradient();
  for (int r = 0; r < guided_; r++) guard(step, r);
}

void Sampler::gradient() {
  const ptrdiff_t d = stride_of(n_->action);
  members({a_hat_, d}, guided_, true);
  shares();
  std::fill(gradient_, gradient_ + guided_ * d, 0.0f);
  for (int e = 0; e < n_->members; e++) {  // always in this order: sums depend on it
    rows_.clear();
    for (int r = 0; r < guided_; r++)
      if (share_[e * kBlock + r] != 0.0f) rows_.push_back(r);
    if (!rows_.empty()) reverse(e);
  }
}

// The members' outputs at `actions`, and with `keep` what the reverse pass needs. The one that is
// most likely to be differentiated next comes last, while its weights are still in the cache.
void Sampler::members(Rows actions, int rows, bool keep) {
  const Kernels &k = *n_->kernels;
  std::iota(order_.begin(), order_.end(), 0);
  std::swap(order_[likely_], order_.back());
  for (const int e : order_) {
    const auto &layers = n_->critic[e].layer;
    Rows in = x_, out = y_;
    k.forward[n_->half](layers[0].weight, rows, actions, {critic_seen_[e], 0}, in);
    for (size_t l = 0;; l++) {
      Tape *tape = keep ? tape_[e * layers.size() + l].data() : nullptr;
      k.hidden(layers[l].weight.out, layers[l].scale, layers[l].shift, rows, in, tape);
      if (l + 1 == layers.size()) break;
      k.forward[n_->half](layers[l + 1].weight, rows, in, {layers[l + 1].bias, 0}, out);
      std::swap(in, out);
    }
    for (int r = 0; r < rows; r++)
      raw_[e * 2 * kBlock + r] =
          k.dot(layers.back().weight.out, in.data + r * in.stride, n_->output[e]) +
          n_->output_bias[e];
  }
}

float Sampler::q(int member, int row) const {
  const float raw = raw_[member * 2 * kBlock + row];
  return n_->bounded ? sigmoid(raw) : raw;
}

// share = d aggregated Q / d output of each member, per row.
void Sampler::shares() {
  const int members = n_->members;
  for (int r = 0; r < guided_; r++) {
    int smallest = 0;  // what is not a number counts as smallest, so that it is not hidden
    for (int e = 0; e < members; e++) {
      const float raw = raw_[e * 2 * kBlock + r], least = raw_[smallest * 2 * kBlock + r];
      if (raw < least || (std::isnan(raw) && !std::isnan(least))) smallest = e;
    }
    float std = 0;
    double mean = 0;
    if (n_->deviations > 0) {
      aggregate(r, &std, &mean);
      if (!(std > 0)) std = 1;  // where all agree there is no slope
    }
    for (int e = 0; e < members; e++) {
      float share = 1.0f / static_cast<float>(members);
      if (n_->aggregation == QGF_MIN)
        share = e == smallest ? 1.0f : 0.0f;
      else if (n_->deviations > 0)
        share -= static_cast<float>(n_->deviations / members * (q(e, r) - mean) / std);
      if (n_->bounded && share != 0.0f) {  // the sigmoid's slope, exact also near 1
        const float raw = raw_[e * 2 * kBlock + r];
        share *= sigmoid(raw) * sigmoid(-raw);
      }
      share_[e * kBlock + r] = share;
    }
    likely_ = smallest;
  }
}

// gradient += share * d output / d action of this member, for `rows_`.
void Sampler::reverse(int e) {
  const Kernels &k = *n_->kernels;
  const auto &layers = n_->critic[e].layer;
  const auto rows = static_cast<int>(rows_.size());
  const ptrdiff_t d = stride_of(n_->action);
  Rows g = back_, other = x_;
  for (int j = 0; j < rows; j++) {
    const float share = share_[e * kBlock + rows_[j]];
    float *row = g.data + j * g.stride;
    for (ptrdiff_t i = 0; i < stride_of(layers.back().weight.out); i++)
      row[i] = share * n_->output[e][i];
  }
  for (size_t l = layers.size(); l-- > 0;) {
    for (int j = 0; j < rows; j++)
      k.hidden_back(layers[l].weight.out, tape_[e * layers.size() + l][rows_[j]],
                    g.data + j * g.stride);
    if (l == 0) other = {part_, d};
    k.backward[n_->half](layers[l].weight, rows, g, other);
    std::swap(g, other);
  }
  for (int j = 0; j < rows; j++)
    for (int i = 0; i < n_->action; i++) gradient_[rows_[j] * d + i] += part_[j * d + i];
}

// Mask, disagreement, support and ratio cap, one after another; see training/guards.py.
void Sampler::guard(int step, int r) {
  const int size = n_->action;
  const ptrdiff_t d = stride_of(size);
  const uint8_t *mask =
      request_->guide ? request_->guide + static_cast<ptrdiff_t>(step) * size : nullptr;
  float *g = gradient_ + r * d;
  for (int i = 0; i < size; i++)
    if (i < request_->held || (mask && !mask[i])) g[i] = 0;
  if (request_->disagreement < kInfinity) {
    float std;
    aggregate(r, &std);
    if (!(std <= request_->disagreement)) {
      if (std::any_of(g, g + size, [](float x) { return x != 0; })) acted_[r] |= kDisagreement;
      std::fill(g, g + size, 0.0f);
    }
  }
  if (request_->low)
    for (int i = 0; i < size; i++) {
      const float at = a_hat_[r * d + i];
      if ((!(at < request_->high[i]) && g[i] > 0) || (!(at > request_->low[i]) && g[i] < 0)) {
        g[i] = 0;
        acted_[r] |= kSupport;
      }
    }
  double length = norm(g, size);
  if (request_->ratio_cap < kInfinity) {
    const double push = request_->weight * length;
    const double limit = request_->ratio_cap * norm(v_ + r * d, size);
    if (push > limit) {
      for (int i = 0; i < size; i++) g[i] = static_cast<float>(g[i] * (limit / push));
      length = norm(g, size);
      acted_[r] |= kRatioCap;
    }
  }
  gradient_norm_[r] += length;
}

// The members' Q of a row as one, and their standard deviation.
float Sampler::aggregate(int row, float *std, double *middle) const {
  const int members = n_->members;
  // From the first one on: where all agree the mean is theirs, without rounding.
  const double start = q(0, row);
  double mean = 0, variance = 0;
  float least = q(0, row);
  for (int e = 0; e < members; e++) {
    const float value = q(e, row);
    mean += (value - start) / members;
    if (value < least || std::isnan(value)) least = value;
  }
  mean += start;
  if (middle) *middle = mean;
  for (int e = 0; e < members; e++) variance += (q(e, row) - mean) * (q(e, row) - mean) / members;
  if (std) *std = static_cast<float>(std::sqrt(variance));
  if (n_->aggregation == QGF_MIN) return least;
  return static_cast<float>(mean - n_->deviations * std::sqrt(variance));
}

// Into the caller's arrays, from candidate `begin` on. With w = 0 both halves are the same rows.
void Sampler::answer(const qgf_result &result, int begin) {
  const int size = n_->action, first = guided_;  // of the unguided rows
  const ptrdiff_t d = stride_of(size);
  const bool of_unguided = result.q_unguided && guided_;
  if (result.q || result.q_std || result.q_unguided)
    members({a_, d}, of_unguided ? guided_ + unguided_ : count_, false);
  for (int r = 0; r < count_; r++) {
    const int at = begin + r;
    const auto copy = [&](float *to, int row) {
      if (to) std::copy(a_ + row * d, a_ + row * d + size, to + static_cast<ptrdiff_t>(at) * size);
    };
    copy(result.action, r);
    copy(result.action_unguided, first + r);
    if (result.q || result.q_std) {
      float std;
      const float q = aggregate(r, &std);
      if (result.q) result.q[at] = q;
      if (result.q_std) result.q_std[at] = std;
    }
    if (result.q_unguided) result.q_unguided[at] = aggregate(first + r, nullptr);
    const double length = gradient_norm_[r] / n_->steps, flow = flow_norm_[r] / n_->steps;
    if (result.gradient_norm) result.gradient_norm[at] = static_cast<float>(length);
    if (result.guidance_ratio)
      result.guidance_ratio[at] = static_cast<float>(
          request_->weight * length /
          std::max(flow, static_cast<double>(std::numeric_limits<float>::min())));
    if (result.acted) result.acted[at] = static_cast<float>(acted_[r]);
  }
}

}  // namespace qgf
