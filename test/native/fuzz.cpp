// Random networks of odd sizes and random requests, the same for the same seed. Held to
// reference.h, and to what the C interface promises: the same bits again, with other candidates
// beside, and with other outputs asked for; no allocation; no byte beside an output.
#include <cstring>
#include <limits>
#include <random>

#include "check.h"
#include "reference.h"

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr double TOLERANCE = 1e-5;  // times 1 + w

// By hand: what the standard library makes of a seed differs between libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : bits_(seed) {}
  int below(int n) { return int(bits_() % uint64_t(n)); }
  bool one_in(int n) { return below(n) == 0; }
  double uniform() { return double(bits_() >> 11) * 0x1p-53; }
  float normal() {
    return float(std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform()));
  }
  int size(int largest) { return int(std::exp(uniform() * std::log(largest + 1.0))); }  // small ones more often
  template <class T>
  T of(std::initializer_list<T> values) { return values.begin()[below(int(values.size()))]; }

 private:
  std::mt19937_64 bits_;
};

// A number that half precision holds exactly, so that both precisions have one answer.
float halved(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits &= ~0x1FFFu;
  std::memcpy(&x, &bits, 4);
  return std::abs(x) < 0x1p-14f ? 0 : x;
}

void draw(Random& random, Net& net) {
  net.shape.obs = random.size(130);
  net.shape.action = random.size(130);
  net.shape.steps = 1 + random.below(12);
  net.shape.time_features = random.below(20);
  net.shape.members = 1 + random.below(4);
  net.shape.aggregation = random.below(2);
  net.shape.deviations = net.shape.aggregation ? random.of({0.0f, 0.5f, 2.0f}) : 0;
  net.shape.bounded = random.below(2);
  for (auto* widths : {&net.velocity_width, &net.critic_width}) {
    widths->resize(size_t(1 + random.below(4)));
    for (int32_t& width : *widths) width = random.one_in(4) ? 16 * (1 + random.below(18)) : random.size(300);
  }
  net.allocate();
  net.fill([&](float* numbers, size_t count, int fan_in, float mean) {
    const float scale = fan_in ? 1 / std::sqrt(float(fan_in)) : 0.2f;
    for (size_t i = 0; i < count; ++i) numbers[i] = halved(mean + scale * random.normal());
  });
}

struct Ask : qgf_request {
  Pool pool;
};

void draw(Random& random, const qgf_shape& shape, Ask& ask) {
  const int D = shape.action;
  auto numbers = [&](int count) {
    float* at = ask.pool.place<float>(size_t(count));
    for (int i = 0; i < count; ++i) at[i] = random.normal();
    return at;
  };
  ask.obs = numbers(shape.obs);
  // More than the sampler takes through its steps together, where they are cheap.
  ask.candidates = 1 + random.below(shape.obs * D < 100 ? 40 : 9);
  ask.noise = numbers(ask.candidates * D);
  ask.weight = random.of({0.0f, 0.3f, 1.0f, 5.0f});
  ask.disagreement = random.one_in(3) ? float(random.uniform()) : INF;
  ask.ratio_cap = random.one_in(3) ? float(random.uniform()) : INF;
  if (random.one_in(3)) {
    auto* guide = ask.pool.place<uint8_t>(size_t(shape.steps * D));
    for (int i = 0; i < shape.steps * D; ++i) guide[i] = uint8_t(random.below(3));
    ask.guide = guide;
  }
  if (random.one_in(3)) {
    float *low = ask.pool.place<float>(size_t(D)), *high = ask.pool.place<float>(size_t(D));
    for (int d = 0; d < D; ++d) {
      low[d] = random.one_in(4) ? -INF : -float(random.uniform());
      high[d] = random.one_in(4) ? INF : float(random.uniform());
    }
    ask.low = low;
    ask.high = high;
  }
  if (random.one_in(3)) {
    ask.held = random.below(D + 1);
    ask.committed = numbers(ask.held);
  }
}

bool same(const float* a, const float* b, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (std::memcmp(a + i, b + i, 4) && !(std::isnan(a[i]) && std::isnan(b[i]))) return false;
  return true;
}

struct Count {
  long samples = 0, rows = 0, undecided = 0;
  double worst = 0;
};

bool sample(qgf_sampler* sampler, const qgf_request& ask, const Outputs& to) {
  const size_t before = allocated_bytes();
  const int code = qgf_sample(sampler, &ask, &to.result);
  if (allocated_bytes() != before) fail("qgf_sample allocated memory");
  if (!to.pool.fronts_are_whole()) fail("qgf_sample wrote in front of an output");
  if (code && !to.untouched()) fail("qgf_sample refused and wrote");
  return code == 0;
}

// What the C interface promises whatever the numbers are. False where it was refused.
bool promises(qgf_sampler* sampler, const Net& net, const Ask& ask, const Outputs& got, unsigned mask,
              unsigned end) {
  if (!sample(sampler, ask, got)) return false;
  const int D = net.shape.action;
  for (; mask < end; ++mask) {
    Outputs some(D, ask.candidates, mask);
    sample(sampler, ask, some);
    for (int o = 0; o < OUTPUTS; ++o)
      if (some.numbers[o] && !same(some.numbers[o], got.numbers[o], width_of(o, D) * size_t(ask.candidates)))
        fail("%s: %s is another one with outputs %#x", qgf_isa(sampler), OUTPUT_NAMES[o], mask);
  }
  Outputs again(D, ask.candidates), alone(D, 1);
  sample(sampler, ask, again);
  for (int o = 0; o < OUTPUTS; ++o)
    if (!same(again.numbers[o], got.numbers[o], width_of(o, D) * size_t(ask.candidates)))
      fail("%s: %s is another one the second time", qgf_isa(sampler), OUTPUT_NAMES[o]);
  for (int row = 0; row < ask.candidates; ++row) {
    qgf_request one = ask;
    one.candidates = 1;
    one.noise += size_t(row) * size_t(D);
    sample(sampler, one, alone);
    for (int o = 0; o < OUTPUTS; ++o)
      if (!same(alone.numbers[o], got.numbers[o] + size_t(row) * width_of(o, D), width_of(o, D)))
        fail("%s: %s of candidate %d of %d is another one alone", qgf_isa(sampler), OUTPUT_NAMES[o], row, ask.candidates);
  }
  return true;
}

// Whether float32 cannot decide it: the reference itself, in float, is elsewhere.
bool undecided(const Net& net, const Ask& ask, const Answer& expected, int row, double tolerance) {
  const auto D = size_t(net.shape.action);
  for (float nudge : {0.0f, 0x1p-23f, -0x1p-23f, 0x1p-22f}) {
    std::vector<float> noise(ask.noise + size_t(row) * D, ask.noise + size_t(row + 1) * D);
    for (float& x : noise) x *= 1 + nudge;
    qgf_request one = ask;
    one.noise = noise.data();
    one.candidates = 1;
    const Answer apart = reference::answer<float>(net, one);
    Outputs single(net.shape.action, 1);
    Answer want(net.shape.action, 1);
    for (int o = 0; o < OUTPUTS; ++o) {
      const size_t width = width_of(o, net.shape.action);
      std::copy_n(apart.of(o), width, single.numbers[o]);
      std::copy_n(expected.of(o) + size_t(row) * width, width, want.of(o));
    }
    if (!(error_of(single, want, 0, tolerance) <= 0.1)) return true;
  }
  return false;
}

void compare(const Net& net, const Ask& ask, const std::vector<Outputs*>& answers, const std::vector<qgf_sampler*>& samplers,
             uint64_t seed, Count& count) {
  const Answer expected = reference::answer<double>(net, ask);
  const double tolerance = TOLERANCE * (1 + double(ask.weight));
  for (int row = 0; row < ask.candidates; ++row) {
    bool known = true;
    for (size_t i = 0; i < answers.size() && known; ++i) {
      int output = 0;
      const double error = error_of(*answers[i], expected, row, tolerance, &output);
      if (!(error <= 1)) {
        known = !undecided(net, ask, expected, row, tolerance);
        if (known)
          fail("seed %llu, %s, float%d, O %d D %d T %d E %d, w %g, row %d: %s is off by %.2f of the tolerance",
               static_cast<unsigned long long>(seed), qgf_isa(samplers[i]), i % 2 ? 16 : 32, net.shape.obs,
               net.shape.action, net.shape.steps, net.shape.members, double(ask.weight), row,
               OUTPUT_NAMES[output], error);
      } else {
        count.worst = std::max(count.worst, error);
      }
    }
    ++count.rows;
    count.undecided += !known;
  }
}

// One network by all instruction sets in both precisions, and a few requests.
void one(uint64_t seed, Count& count) {
  Random random(seed);
  Net net;
  draw(random, net);
  const bool broken = random.one_in(6);  // numbers that are none, somewhere
  double weights = 0;
  net.fill([&](float*, size_t count, int, float) { weights += double(count); });
  const bool all_masks = weights * net.shape.steps < 5000;
  const float bad = random.of({INF, -INF, std::numeric_limits<float>::quiet_NaN(), 3e38f, -1e30f, 1e-42f});
  if (broken && random.one_in(2)) {
    auto& layers = random.one_in(2) ? net.velocity : net.critic;
    const Layer& layer = layers[size_t(random.below(int(layers.size())))];
    const_cast<float*>(random.one_in(2) ? layer.weight : layer.bias)[random.below(layer.out)] = bad;
  }
  std::vector<qgf_sampler*> samplers;
  for (const std::string& isa : isas())
    for (int precision : {QGF_FLOAT32, QGF_FLOAT16}) {
      net.shape.isa = isa.c_str();
      net.shape.precision = precision;
      std::string why;
      if (qgf_sampler* sampler = net.create(&why)) {
        samplers.push_back(sampler);
        if (isa != qgf_isa(sampler)) fail("asked for %s, it says %s", isa.c_str(), qgf_isa(sampler));
      } else if (!broken) {
        fail("seed %llu: refused: %s", static_cast<unsigned long long>(seed), why.c_str());
      }
    }
  for (int k = 0; k < 3 && !samplers.empty(); ++k) {
    Ask ask{};
    draw(random, net.shape, ask);
    if (broken) {
      const int where = random.below(3);
      const_cast<float*>(where ? ask.noise : ask.obs)[random.below(where ? net.shape.action : net.shape.obs)] = bad;
      if (ask.held) const_cast<float*>(ask.committed)[random.below(ask.held)] = bad;
    }
    // Drawn here: what is asked must not depend on how many instruction sets this machine has.
    const bool all = all_masks && k == 0;
    const unsigned mask = all ? 0 : unsigned(random.below(256));
    std::deque<Outputs> answers;
    std::vector<Outputs*> taken;
    for (qgf_sampler* sampler : samplers) {
      answers.emplace_back(net.shape.action, ask.candidates);
      const bool accepted = promises(sampler, net, ask, answers.back(), mask, all ? 256 : mask + 1);
      if (!accepted && !broken) fail("seed %llu: the request was refused", static_cast<unsigned long long>(seed));
      taken.push_back(&answers.back());
      ++count.samples;
    }
    if (!broken) compare(net, ask, taken, samplers, seed, count);
  }
  for (qgf_sampler* sampler : samplers) qgf_destroy(sampler);
}

}  // namespace

void check_fuzz(uint64_t seed, long networks) {
  Count count;
  for (long i = 0; i < networks; ++i) one(seed * 1'000'003 + uint64_t(i), count);
  if (count.undecided > 0.05 * double(count.rows)) fail("%ld of %ld rows undecided", count.undecided, count.rows);
  std::printf("fuzz: seed %llu, %ld networks, %ld requests, %s; largest error %.2f of the tolerance, %ld of %ld rows undecided\n",
              static_cast<unsigned long long>(seed), networks, count.samples, qgf_isas(), count.worst,
              count.undecided, count.rows);
}
