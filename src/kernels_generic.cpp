// Any processor: plain C++, four floats at a time for the compiler to put where it can.
#include "kernels.h"

namespace {

constexpr int kLanes = 4, kRows = 1, kMoreRows = 2, kFewer = 4;
struct V {
  float lane[kLanes];
};

template <class Lane>
QGF_OP V each(Lane lane) {
  V v;
  for (int i = 0; i < kLanes; i++) v.lane[i] = lane(i);
  return v;
}
QGF_OP V load(const float *p) {
  return each([=](int i) { return p[i]; });
}
// IEEE binary16 -> binary32: the exponent's bias moves by 112; below 2^-14 the mantissa counts
// 2^-24.
QGF_OP float widen(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest < 0x0400u) {
    const float small = static_cast<float>(rest) * 0x1p-24f;
    return sign ? -small : small;
  }
  const uint32_t bits = sign | ((rest << 13) + (rest < 0x7c00u ? 112u << 23 : 224u << 23));
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
QGF_OP V load_half(const uint16_t *p) {
  return each([=](int i) { return widen(p[i]); });
}
QGF_OP void store(float *p, V a) {
  for (int i = 0; i < kLanes; i++) p[i] = a.lane[i];
}
QGF_OP V splat(float a) {
  return each([=](int) { return a; });
}
QGF_OP float first(V a) { return a.lane[0]; }
QGF_OP V add(V a, V b) {
  return each([=](int i) { return a.lane[i] + b.lane[i]; });
}
QGF_OP V sub(V a, V b) {
  return each([=](int i) { return a.lane[i] - b.lane[i]; });
}
QGF_OP V mul(V a, V b) {
  return each([=](int i) { return a.lane[i] * b.lane[i]; });
}
QGF_OP V div(V a, V b) {
  return each([=](int i) { return a.lane[i] / b.lane[i]; });
}
QGF_OP V fma(V a, V b, V c) {
  return each([=](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
QGF_OP V low(V limit, V a) {
  return each([=](int i) { return limit.lane[i] < a.lane[i] ? limit.lane[i] : a.lane[i]; });
}
QGF_OP V high(V limit, V a) {
  return each([=](int i) { return limit.lane[i] > a.lane[i] ? limit.lane[i] : a.lane[i]; });
}
QGF_OP V round(V a) {
  return each([=](int i) { return __builtin_rintf(a.lane[i]); });
}
QGF_OP V scale2(V a, V b) {
  return each([=](int i) {
    const bool number = b.lane[i] == b.lane[i];
    return __builtin_ldexpf(a.lane[i], number ? static_cast<int>(b.lane[i]) : 0);
  });
}
QGF_OP float sum(V a) { return (a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3]); }
QGF_OP void sum_each(const V *a, float *to, bool more) {
  for (int j = 0; j < 8; j++) to[j] = more ? to[j] + sum(a[j]) : sum(a[j]);
}

}  // namespace

#include "kernels.inl"
QGF_TABLE(kGeneric, "generic")
