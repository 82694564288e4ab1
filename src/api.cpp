// The C interface: nothing gets past it that the sampler could not take.
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "qgf_sampler.h"
#include "sampler.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

struct qgf_sampler {
  explicit qgf_sampler(std::unique_ptr<qgf::Networks> networks) : sampler(std::move(networks)) {}
  qgf::Sampler sampler;
};

namespace {

using qgf::Kernels;

// Those of this build that this processor has, best first.
const std::vector<const Kernels *> &instruction_sets() {
  static const std::vector<const Kernels *> sets = [] {
    std::vector<const Kernels *> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;  // Clang knows f16c by no name before version 15
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) found.push_back(&qgf::kAvx512);
    if (avx2) found.push_back(&qgf::kAvx2);
#elif defined(__aarch64__)
    found.push_back(&qgf::kNeon);
#endif
    found.push_back(&qgf::kGeneric);
    return found;
  }();
  return sets;
}

// What is wrong with the sizes, "" where nothing is.
std::string wrong(const qgf_shape &s) {
  const auto number = [](const char *name, int32_t value, int32_t least,
                         int32_t most) -> std::string {
    if (value >= least && value <= most) return "";
    return std::string(name) + " is " + std::to_string(value) +
           "; allowed: " + std::to_string(least) + " to " + std::to_string(most);
  };
  for (const std::string &text :
       {number("the size of an observation", s.obs, 1, QGF_MAX_WIDTH),
        number("the size of a chunk", s.action, 1, QGF_MAX_WIDTH),
        number("the number of steps", s.steps, 1, QGF_MAX_STEPS),
        number("the number of hidden layers of the velocity", s.velocity_layers, 1, QGF_MAX_LAYERS),
        number("the number of hidden layers of the critic", s.critic_layers, 1, QGF_MAX_LAYERS),
        number("the number of members", s.members, 1, QGF_MAX_MEMBERS),
        number("the aggregation", s.aggregation, QGF_MIN, QGF_MEAN),
        number("the precision", s.precision, QGF_FLOAT32, QGF_FLOAT16),
        number("the number of time features", s.time_features, 0, QGF_MAX_WIDTH)})
    if (!text.empty()) return text;
  if (!(s.deviations >= 0 && std::isfinite(s.deviations)))
    return "the number of standard deviations must be finite and at least 0";
  if (!s.velocity_width || !s.critic_width) return "the widths are missing";
  int64_t parameters = 0;
  const auto count = [&](const int32_t *widths, int layers, int64_t in,
                         int64_t times) -> std::string {
    for (int l = 0; l < layers; l++) {
      const std::string text = number("the width of a hidden layer", widths[l], 1, QGF_MAX_WIDTH);
      if (!text.empty()) return text;
      parameters += times * (in + 3) * widths[l];
      in = widths[l];
    }
    return "";
  };
  std::string text =
      count(s.velocity_width, s.velocity_layers, int64_t{s.obs} + s.action + s.time_features, 1);
  if (text.empty())
    text = count(s.critic_width, s.critic_layers, int64_t{s.obs} + s.action, s.members);
  if (!text.empty()) return text;
  parameters += int64_t{s.velocity_width[s.velocity_layers - 1] + 1} * s.action;
  if (parameters > QGF_MAX_PARAMETERS)
    return "the networks have " + std::to_string(parameters) + " parameters; allowed: up to " +
           std::to_string(QGF_MAX_PARAMETERS);
  return "";
}

std::string missing(const qgf_shape &s, const qgf_layer *velocity, const qgf_layer *critic) {
  const auto check = [](const char *name, const qgf_layer *layers, int linear,
                        int normed) -> std::string {
    for (int l = 0; l < linear; l++) {
      const bool norm = layers[l].scale && layers[l].shift,
                 none = !layers[l].scale && !layers[l].shift;
      if (!layers[l].weight || !layers[l].bias || !(l < normed ? norm : none))
        return "layer " + std::to_string(l) + " of the " + name +
               " lacks an array, or has one too many";
    }
    return "";
  };
  const std::string text =
      check("velocity", velocity, s.velocity_layers + 1, s.velocity_layers - 1);
  return text.empty() ? check("critic", critic, s.critic_layers + 1, s.critic_layers) : text;
}

}  // namespace

int32_t qgf_abi(void) { return QGF_ABI; }

const char *qgf_isas(void) {
  static const std::string names = [] {
    std::string text;
    for (const Kernels *set : instruction_sets())
      text += (text.empty() ? "" : ",") + std::string(set->name);
    return text;
  }();
  return names.c_str();
}

qgf_sampler *qgf_create(const qgf_shape *shape, const qgf_layer *velocity, const qgf_layer *critic,
                        const float *times, char *error, size_t error_size) {
  std::string text;
  try {
    const Kernels *kernels = nullptr;
    if (!shape || !velocity || !critic || !times)
      text = "an argument is missing";
    else if (shape->abi != QGF_ABI)
      text = "interface " + std::to_string(shape->abi) + " is asked for, this is " +
             std::to_string(QGF_ABI);
    else if (text = wrong(*shape); text.empty())
      text = missing(*shape, velocity, critic);
    if (text.empty()) {
      for (const Kernels *set : instruction_sets())
        if (!kernels && (!shape->isa || !*shape->isa || std::string(set->name) == shape->isa))
          kernels = set;
      if (!kernels)
        text =
            std::string("no instruction set ") + shape->isa + "; this processor has " + qgf_isas();
    }
    if (text.empty()) {
      std::unique_ptr<qgf::Networks> networks(
          qgf::Networks::pack(*shape, *kernels, velocity, critic, times, &text));
      if (networks) {
        auto made = std::make_unique<qgf_sampler>(std::move(networks));
        if (made->sampler.allocate()) return made.release();
        text = "no memory to sample in";
      }
    }
  } catch (const std::exception &failure) {  // no memory
    text = failure.what();
  }
  if (error && error_size) std::snprintf(error, error_size, "%s", text.c_str());
  return nullptr;
}

int32_t qgf_sample(qgf_sampler *sampler, const qgf_request *request, const qgf_result *result) {
  if (!sampler || !request || !result || !request->obs || !request->noise) return -1;
  const qgf::Networks &n = sampler->sampler.networks();
  const bool fits = request->candidates >= 1 && request->candidates <= QGF_MAX_CANDIDATES &&
                    request->weight >= 0 && std::isfinite(request->weight) && request->held >= 0 &&
                    request->held <= n.action && (request->held == 0 || request->committed) &&
                    !request->low == !request->high && request->disagreement >= 0 &&
                    request->ratio_cap >= 0;
  if (!fits) return -1;
  sampler->sampler.sample(*request, *result);
  return 0;
}

const char *qgf_isa(const qgf_sampler *sampler) {
  return sampler->sampler.networks().kernels->name;
}

size_t qgf_weight_bytes(const qgf_sampler *sampler) {
  return static_cast<size_t>(sampler->sampler.networks().bytes());
}

void qgf_destroy(qgf_sampler *sampler) { delete sampler; }
