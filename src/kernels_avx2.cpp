// x86-64 with AVX2, FMA and F16C: 16 registers of 8 floats.
#include <immintrin.h>

#include "kernels.h"

namespace {

constexpr int kLanes = 8, kRows = 1, kMoreRows = 3, kFewer = 4;
using V = __m256;

QGF_OP V load(const float *p) { return _mm256_loadu_ps(p); }
QGF_OP V load_half(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
QGF_OP void store(float *p, V a) { _mm256_storeu_ps(p, a); }
QGF_OP V splat(float a) { return _mm256_set1_ps(a); }
QGF_OP float first(V a) { return _mm256_cvtss_f32(a); }
QGF_OP V add(V a, V b) { return _mm256_add_ps(a, b); }
QGF_OP V sub(V a, V b) { return _mm256_sub_ps(a, b); }
QGF_OP V mul(V a, V b) { return _mm256_mul_ps(a, b); }
QGF_OP V div(V a, V b) { return _mm256_div_ps(a, b); }
QGF_OP V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
QGF_OP V low(V limit, V a) { return _mm256_min_ps(limit, a); }
QGF_OP V high(V limit, V a) { return _mm256_max_ps(limit, a); }
QGF_OP V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
QGF_OP V scale2(V a, V b) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(b), _mm256_set1_epi32(127));
  return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
QGF_OP float sum(V a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
QGF_OP void sum_each(const V *a, float *to, bool more) {
  const V p = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  const V q = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
  const V s = add(_mm256_permute2f128_ps(p, q, 0x20), _mm256_permute2f128_ps(p, q, 0x31));
  store(to, more ? add(s, load(to)) : s);
}

}  // namespace

#include "kernels.inl"
QGF_TABLE(kAvx2, "avx2")
