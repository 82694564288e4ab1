// x86-64 with AVX-512 (F, BW, DQ, VL): 32 registers of 16 floats.
#include "kernels.h"

// GCC 12 takes its own header's undefined values for a mistake (GCC bug 105593).
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace {

constexpr int kLanes = 16, kRows = 3, kMoreRows = 6, kFewer = 4;
using V = __m512;

QGF_OP V load(const float *p) { return _mm512_loadu_ps(p); }
QGF_OP V load_half(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
QGF_OP void store(float *p, V a) { _mm512_storeu_ps(p, a); }
QGF_OP V splat(float a) { return _mm512_set1_ps(a); }
QGF_OP float first(V a) { return _mm512_cvtss_f32(a); }
QGF_OP V add(V a, V b) { return _mm512_add_ps(a, b); }
QGF_OP V sub(V a, V b) { return _mm512_sub_ps(a, b); }
QGF_OP V mul(V a, V b) { return _mm512_mul_ps(a, b); }
QGF_OP V div(V a, V b) { return _mm512_div_ps(a, b); }
QGF_OP V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
QGF_OP V low(V limit, V a) { return _mm512_min_ps(limit, a); }
QGF_OP V high(V limit, V a) { return _mm512_max_ps(limit, a); }
QGF_OP V round(V a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
QGF_OP V scale2(V a, V b) { return _mm512_scalef_ps(a, b); }
QGF_OP float sum(V a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
QGF_OP void sum_each(const V *a, float *to, bool more) {
  __m256 h[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++)
    h[j] = _mm256_add_ps(_mm512_castps512_ps256(a[j]), _mm512_extractf32x8_ps(a[j], 1));
  const __m256 p = _mm256_hadd_ps(_mm256_hadd_ps(h[0], h[1]), _mm256_hadd_ps(h[2], h[3]));
  const __m256 q = _mm256_hadd_ps(_mm256_hadd_ps(h[4], h[5]), _mm256_hadd_ps(h[6], h[7]));
  const __m256 s =
      _mm256_add_ps(_mm256_permute2f128_ps(p, q, 0x20), _mm256_permute2f128_ps(p, q, 0x31));
  _mm256_storeu_ps(to, more ? _mm256_add_ps(s, _mm256_loadu_ps(to)) : s);
}

}  // namespace

#include "kernels.inl"
QGF_TABLE(kAvx512, "avx512")
