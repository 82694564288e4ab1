// The guided sampler on top of the kernels.
#pragma once

#include <memory>
#include <vector>

#include "networks.h"

namespace qgf {

// Candidates that go through all steps together: enough to fill the processor's registers, few
// enough that what the reverse pass needs of them stays in its cache.
constexpr int kBlock = 16;

class Sampler {
 public:
  explicit Sampler(std::unique_ptr<Networks> networks);
  bool allocate();  // false: no memory
  void sample(const qgf_request &request, const qgf_result &result);

  const Networks &networks() const { return *n_; }

 private:
  std::unique_ptr<Networks> n_;
  Arena arena_;
  int likely_ = 0;  // the member that the last step differentiated

  // One block of candidates. Rows of the flow: the guided ones, then the unguided ones.
  const qgf_request *request_ = nullptr;
  const float *noise_ = nullptr;
  int count_ = 0, guided_ = 0, unguided_ = 0;

  float *flow_seen_, *flow_start_;       // (W,)
  float *a_, *v_;                        // (2 kBlock, D)
  float *a_hat_, *gradient_, *part_;     // (kBlock, D)
  Rows x_, y_, back_;                    // layers, (2 kBlock, W), (kBlock, W)
  std::vector<float *> critic_seen_;     // (E) of (W,)
  std::vector<std::vector<Tape>> tape_;  // (E * layers) of (kBlock,)
  std::vector<float> raw_;               // (E, 2 kBlock) outputs, before a sigmoid
  std::vector<float> share_;             // (E, kBlock) d aggregated Q / d output
  std::vector<double> flow_norm_, gradient_norm_;
  std::vector<int> acted_;
  std::vector<int> order_;  // of the members, for the next critic pass
  std::vector<int> rows_;   // that a member's reverse pass is about

  void lay_out();
  void block(const qgf_result &result, int begin);
  void velocity(int step, int rows);
  bool guides(int step) const;
  void guide(int step);
  void gradient();
  void members(Rows actions, int rows, bool keep);
  void shares();
  void reverse(int member);
  void guard(int step, int row);
  void answer(const qgf_result &result, int begin);
  float aggregate(int row, float *std, double *mean = nullptr) const;
  float q(int member, int row) const;
};

}  // namespace qgf
