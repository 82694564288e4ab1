// aarch64: 32 registers of 4 floats.
#include <arm_neon.h>

#include "kernels.h"

namespace {

constexpr int kLanes = 4, kRows = 3, kMoreRows = 6, kFewer = 4;
using V = float32x4_t;

QGF_OP V load(const float *p) { return vld1q_f32(p); }
QGF_OP V load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
QGF_OP void store(float *p, V a) { vst1q_f32(p, a); }
QGF_OP V splat(float a) { return vdupq_n_f32(a); }
QGF_OP float first(V a) { return vgetq_lane_f32(a, 0); }
QGF_OP V add(V a, V b) { return vaddq_f32(a, b); }
QGF_OP V sub(V a, V b) { return vsubq_f32(a, b); }
QGF_OP V mul(V a, V b) { return vmulq_f32(a, b); }
QGF_OP V div(V a, V b) { return vdivq_f32(a, b); }
QGF_OP V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
QGF_OP V low(V limit, V a) { return vminq_f32(limit, a); }
QGF_OP V high(V limit, V a) { return vmaxq_f32(limit, a); }
QGF_OP V round(V a) { return vrndnq_f32(a); }
QGF_OP V scale2(V a, V b) {
  const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(b), vdupq_n_s32(127));
  return mul(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
QGF_OP float sum(V a) { return vaddvq_f32(a); }
QGF_OP void sum_each(const V *a, float *to, bool more) {
  const V p = vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
  const V q = vpaddq_f32(vpaddq_f32(a[4], a[5]), vpaddq_f32(a[6], a[7]));
  store(to, more ? add(p, load(to)) : p);
  store(to + 4, more ? add(q, load(to + 4)) : q);
}

}  // namespace

#include "kernels.inl"
QGF_TABLE(kNeon, "neon")
