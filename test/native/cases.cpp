// Networks, requests and expected answers from a file of cases.py: numbers of this machine's byte
// order one after another, in the order in which they are read here.
#include <cstring>
#include <fstream>

#include "check.h"

namespace {

constexpr int32_t MAGIC = 0x31464751;  // "QGF1"

class Reader {
 public:
  explicit Reader(const char* file) : stream_(file, std::ios::binary), file_(file) {}
  template <class T>
  void read(T* to, size_t count) {
    if (!stream_.read(reinterpret_cast<char*>(to), std::streamsize(count * sizeof(T)))) {
      std::fprintf(stderr, "%s: missing or cut short\n", file_);
      std::exit(2);
    }
  }
  template <class T>
  T one() {
    T value;
    read(&value, 1);
    return value;
  }

 private:
  std::ifstream stream_;
  const char* file_;
};

void read_net(Reader& in, Net& net) {
  net.shape.obs = in.one<int32_t>();
  net.shape.action = in.one<int32_t>();
  net.shape.steps = in.one<int32_t>();
  net.shape.time_features = in.one<int32_t>();
  net.shape.members = in.one<int32_t>();
  net.shape.aggregation = in.one<int32_t>();
  net.shape.deviations = in.one<float>();
  net.shape.bounded = in.one<int32_t>();
  for (auto* widths : {&net.velocity_width, &net.critic_width}) {
    widths->resize(size_t(in.one<int32_t>()));
    in.read(widths->data(), widths->size());
  }
  net.allocate();
  net.fill([&](float* numbers, size_t count, int, float) { in.read(numbers, count); });
}

struct Ask : qgf_request {
  Pool pool;
  double tolerance = 0, tolerance_half = 0;  // times 1 + w
};

void read_request(Reader& in, const qgf_shape& shape, Ask& ask) {
  const auto D = size_t(shape.action);
  auto numbers = [&](size_t count) {
    float* at = ask.pool.place<float>(count);
    in.read(at, count);
    return at;
  };
  ask.tolerance = in.one<double>();
  ask.tolerance_half = in.one<double>();
  ask.candidates = in.one<int32_t>();
  ask.held = in.one<int32_t>();
  const bool guided_all = in.one<int32_t>(), boxed = in.one<int32_t>();
  ask.weight = in.one<float>();
  ask.disagreement = in.one<float>();
  ask.ratio_cap = in.one<float>();
  ask.obs = numbers(size_t(shape.obs));
  ask.noise = numbers(D * size_t(ask.candidates));
  if (!guided_all) {
    auto* guide = ask.pool.place<uint8_t>(D * size_t(shape.steps));
    in.read(guide, D * size_t(shape.steps));
    ask.guide = guide;
  }
  if (boxed) {
    ask.low = numbers(D);
    ask.high = numbers(D);
  }
  if (ask.held) ask.committed = numbers(size_t(ask.held));
}

}  // namespace

void check_cases(const char* file, double work) {
  Reader in(file);
  if (in.one<int32_t>() != MAGIC) return fail("%s is no file of cases.py", file);
  const int nets = in.one<int32_t>();
  long rows = 0, compared = 0;
  double worst[2] = {0, 0};  // float32, float16
  for (int n = 0; n < nets; ++n) {
    Net net;
    char name[64];
    in.read(name, sizeof name);
    read_net(in, net);
    std::vector<qgf_sampler*> samplers[2];
    for (const auto& isa : isas())
      for (int precision : {QGF_FLOAT32, QGF_FLOAT16}) {
        net.shape.isa = isa.c_str();
        net.shape.precision = precision;
        std::string why;
        samplers[precision].push_back(net.create(&why));
        if (!samplers[precision].back()) fail("%s, %s: refused: %s", name, isa.c_str(), why.c_str());
      }
    const int requests = in.one<int32_t>();
    double weights = 0;
    net.fill([&](float*, size_t count, int, float) { weights += double(count); });
    for (int r = 0; r < requests; ++r) {
      Ask ask{};
      read_request(in, net.shape, ask);
      Answer expected(net.shape.action, ask.candidates);
      for (auto& numbers : expected.numbers) in.read(numbers.data(), numbers.size());
      const double touched = weights * net.shape.steps * ask.candidates * requests;
      if (r % (1 + 2 * int(std::min(touched / work / 2, 1e6)))) continue;
      for (int precision : {QGF_FLOAT32, QGF_FLOAT16})
        for (qgf_sampler* sampler : samplers[precision]) {
          if (!sampler) continue;
          Outputs got(net.shape.action, ask.candidates);
          if (qgf_sample(sampler, &ask, &got.result)) {
            fail("%s, request %d: refused", name, r);
            continue;
          }
          const double bound = (precision ? ask.tolerance_half : ask.tolerance) * (1 + double(ask.weight));
          for (int row = 0; row < ask.candidates; ++row) {
            int output = 0;
            const double error = error_of(got, expected, row, bound, &output);
            worst[precision] = std::max(worst[precision], error);
            ++rows;
            compared += !std::isnan(expected.of(ACTION)[row * net.shape.action]);
            if (!(error <= 1))
              fail("%s, request %d, row %d, %s, float%d: %s is off by %.2f of the tolerance", name, r, row,
                   qgf_isa(sampler), precision ? 16 : 32, OUTPUT_NAMES[output], error);
          }
          if (!got.pool.fronts_are_whole()) fail("%s: written in front of an output", name);
        }
    }
    for (auto& each : samplers)
      for (qgf_sampler* sampler : each) qgf_destroy(sampler);
  }
  if (compared < 0.9 * double(rows)) fail("%ld of %ld rows compared", compared, rows);
  std::printf("cases: %d networks, %ld of %ld rows compared, %s; largest error %.2f and, float16, %.2f of the tolerance\n",
              nets, compared, rows, qgf_isas(), worst[0], worst[1]);
}
