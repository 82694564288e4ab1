// What does not fit is refused: sizes before a weight is read or anything is allocated but the
// sentence that says why, requests before a number is written.
#include <climits>
#include <cstring>
#include <functional>
#include <limits>

#include "check.h"

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NAN_ = std::numeric_limits<float>::quiet_NaN();

void small(Net& net) {
  net.shape.obs = 3;
  net.shape.action = 4;
  net.shape.steps = 5;
  net.shape.time_features = 6;
  net.shape.members = 2;
  net.velocity_width = {8, 7};
  net.critic_width = {9, 5};
  net.allocate();
  net.fill([](float* numbers, size_t count, int, float mean) {
    for (size_t i = 0; i < count; ++i) numbers[i] = mean + 0.1f;
  });
}

// What `qgf_create` is given, each to be spoilt; the weights are one fenced number each, so that
// whoever reads them for a size that was not refused is seen.
struct Given {
  qgf_shape shape;
  std::vector<qgf_layer> velocity, critic;
  const float* times;
};

using Spoil = std::function<void(Given&)>;

constexpr size_t SENTENCE = 4096;  // bytes, all told

void refused(const char* name, const Net& net, const Spoil& spoil) {
  Given given{net.shape, {net.velocity.begin(), net.velocity.end()}, {net.critic.begin(), net.critic.end()}, net.times};
  given.velocity.resize(QGF_MAX_LAYERS + 2, given.velocity[0]);
  given.critic.resize(QGF_MAX_LAYERS + 2, given.critic[0]);
  spoil(given);
  Fence fence;
  for (size_t room : {size_t(200), size_t(8), size_t(1), size_t(0)}) {
    char* error = static_cast<char*>(fence.place(room));
    const size_t before = allocated_bytes();
    qgf_sampler* sampler = qgf_create(&given.shape, given.velocity.data(), given.critic.data(), given.times,
                                      room ? error : nullptr, room);
    const size_t more = allocated_bytes() - before;
    if (sampler) {
      fail("%s: accepted", name);
      return qgf_destroy(sampler);
    }
    if (more > SENTENCE) fail("%s: refused after %zu bytes were allocated", name, more);
    if (room && !std::memchr(error, 0, room)) fail("%s: the reason has no end within %zu bytes", name, room);
    if (room == 200 && std::strlen(error) < 10) fail("%s: refused without a reason", name);
    if (!fence.front_is_whole()) fail("%s: written in front of the reason", name);
  }
}

long shapes() {
  Net net;
  small(net);
  if (qgf_sampler* sampler = net.create()) qgf_destroy(sampler);
  else fail("a sound network was refused");
  long count = 0;
  auto check = [&](const std::string& name, const Spoil& spoil) {
    refused(name.c_str(), net, spoil);
    ++count;
  };

  struct Number {
    const char* name;
    int32_t qgf_shape::*field;
    int32_t least, largest;
  };
  const Number numbers[] = {
      {"obs", &qgf_shape::obs, 1, QGF_MAX_WIDTH},
      {"action", &qgf_shape::action, 1, QGF_MAX_WIDTH},
      {"steps", &qgf_shape::steps, 1, QGF_MAX_STEPS},
      {"velocity_layers", &qgf_shape::velocity_layers, 1, QGF_MAX_LAYERS},
      {"critic_layers", &qgf_shape::critic_layers, 1, QGF_MAX_LAYERS},
      {"members", &qgf_shape::members, 1, QGF_MAX_MEMBERS},
      {"time_features", &qgf_shape::time_features, 0, QGF_MAX_WIDTH},
  };
  for (const Number& number : numbers)
    for (int32_t value : {number.least - 1, number.largest + 1, INT_MAX, INT_MIN})
      check(number.name + ("=" + std::to_string(value)), [&](Given& g) { g.shape.*number.field = value; });
  for (int32_t value : {-1, 2, INT_MAX}) {
    check("aggregation", [&](Given& g) { g.shape.aggregation = value; });
    check("precision", [&](Given& g) { g.shape.precision = value; });
  }
  for (int32_t value : {QGF_ABI - 1, QGF_ABI + 1, -1}) check("abi", [&](Given& g) { g.shape.abi = value; });
  for (float value : {-1.0f, NAN_, INF, -INF})
    check("deviations", [&](Given& g) {
      g.shape.aggregation = QGF_MEAN;
      g.shape.deviations = value;
    });

  // Widths, and products of allowed sizes that no integer of 32 bits holds.
  for (int32_t value : {0, -1, QGF_MAX_WIDTH + 1, INT_MAX, INT_MIN}) {
    std::vector<int32_t> first{value, 7}, last{8, value};
    for (const auto* widths : {&first, &last}) {
      check("a width of the velocity", [&](Given& g) { g.shape.velocity_width = widths->data(); });
      check("a width of the critic", [&](Given& g) { g.shape.critic_width = widths->data(); });
    }
  }
  const std::vector<int32_t> wide(QGF_MAX_LAYERS, QGF_MAX_WIDTH);
  check("a velocity of 10^9 numbers", [&](Given& g) {
    g.shape.velocity_layers = QGF_MAX_LAYERS;
    g.shape.velocity_width = wide.data();
  });
  for (int members = 1; members <= QGF_MAX_MEMBERS; ++members)
    for (int layers = 1; layers <= QGF_MAX_LAYERS; ++layers)
      if (double(members) * (layers - 1) * QGF_MAX_WIDTH * QGF_MAX_WIDTH > QGF_MAX_PARAMETERS)
        check("a critic of 10^9 numbers", [&](Given& g) {
          g.shape.members = members;
          g.shape.critic_layers = layers;
          g.shape.critic_width = wide.data();
        });
  check("everything at its largest", [&](Given& g) {
    g.shape.obs = g.shape.action = g.shape.time_features = QGF_MAX_WIDTH;
    g.shape.steps = QGF_MAX_STEPS;
    g.shape.members = QGF_MAX_MEMBERS;
    g.shape.velocity_layers = g.shape.critic_layers = QGF_MAX_LAYERS;
    g.shape.velocity_width = g.shape.critic_width = wide.data();
  });

  check("velocity_width NULL", [](Given& g) { g.shape.velocity_width = nullptr; });
  check("critic_width NULL", [](Given& g) { g.shape.critic_width = nullptr; });
  check("times NULL", [](Given& g) { g.times = nullptr; });
  for (auto layers : {&Given::velocity, &Given::critic})
    for (size_t i = 0; i < 3; ++i) {
      check("weight NULL", [=](Given& g) { (g.*layers)[i].weight = nullptr; });
      check("bias NULL", [=](Given& g) { (g.*layers)[i].bias = nullptr; });
      const bool normed = layers == &Given::critic ? i < 2 : i < 1;
      if (!normed) continue;
      check("scale NULL", [=](Given& g) { (g.*layers)[i].scale = nullptr; });
      check("shift NULL", [=](Given& g) { (g.*layers)[i].shift = nullptr; });
    }
  for (const char* name : {"sse9", "AVX2", "avx", "generic "})
    check(std::string("isa '") + name + "'", [=](Given& g) { g.shape.isa = name; });

  if (qgf_create(nullptr, nullptr, nullptr, nullptr, nullptr, 0)) fail("shape NULL: accepted");
  std::vector<qgf_layer> v(net.velocity.begin(), net.velocity.end()), c(net.critic.begin(), net.critic.end());
  if (qgf_create(&net.shape, nullptr, c.data(), net.times, nullptr, 0)) fail("velocity NULL: accepted");
  if (qgf_create(&net.shape, v.data(), nullptr, net.times, nullptr, 0)) fail("critic NULL: accepted");
  qgf_destroy(nullptr);
  return count + 3;
}

long requests() {
  Net net;
  small(net);
  qgf_sampler* sampler = net.create();
  if (!sampler) return 0;
  const std::vector<float> numbers(QGF_MAX_CANDIDATES * 4 + 4, 0.5f);
  qgf_request sound{};
  sound.obs = sound.noise = numbers.data();
  sound.candidates = 2;
  sound.weight = 1;
  sound.disagreement = sound.ratio_cap = INF;
  long count = 0;
  auto check = [&](const char* name, const std::function<void(qgf_request&)>& spoil) {
    qgf_request ask = sound;
    spoil(ask);
    Outputs to(net.shape.action, 2);
    if (qgf_sample(sampler, &ask, &to.result) != -1) fail("request, %s: not refused with -1", name);
    if (!to.untouched() || !to.pool.fronts_are_whole()) fail("request, %s: refused and written", name);
    ++count;
  };
  for (int32_t value : {0, -1, QGF_MAX_CANDIDATES + 1, INT_MAX, INT_MIN})
    check("candidates", [=](qgf_request& r) { r.candidates = value; });
  for (float value : {-1.0f, INF, -INF, NAN_}) check("weight", [=](qgf_request& r) { r.weight = value; });
  for (float value : {-1.0f, -INF, NAN_}) {
    check("disagreement", [=](qgf_request& r) { r.disagreement = value; });
    check("ratio_cap", [=](qgf_request& r) { r.ratio_cap = value; });
  }
  for (int32_t value : {-1, 5, INT_MAX, INT_MIN})
    check("held", [&](qgf_request& r) {
      r.held = value;
      r.committed = numbers.data();
    });
  check("committed NULL", [](qgf_request& r) { r.held = 1; });
  check("obs NULL", [](qgf_request& r) { r.obs = nullptr; });
  check("noise NULL", [](qgf_request& r) { r.noise = nullptr; });
  check("low alone", [&](qgf_request& r) { r.low = numbers.data(); });
  check("high alone", [&](qgf_request& r) { r.high = numbers.data(); });

  Outputs to(net.shape.action, 2);
  if (qgf_sample(nullptr, &sound, &to.result) != -1) fail("sampler NULL: not refused with -1");
  if (qgf_sample(sampler, nullptr, &to.result) != -1) fail("request NULL: not refused with -1");
  if (qgf_sample(sampler, &sound, nullptr) != -1) fail("result NULL: not refused with -1");
  if (!to.untouched()) fail("refused and written");
  if (qgf_sample(sampler, &sound, &to.result)) fail("a sound request was refused");
  qgf_destroy(sampler);
  return count + 3;
}

}  // namespace

void check_refusals() {
  const long networks = shapes(), asked = requests();
  std::printf("refusals: %ld networks, %ld requests\n", networks, asked);
}
