// Tiles in AVX-512: 14 × 32 floats in 28 of the 32 registers.
#include "cpu/parallel.h"

#if POTION_HAS_AVX2
#include <immintrin.h>

#define POTION_TARGET __attribute__((target("avx512f,avx512dq")))
#define POTION_VECTOR POTION_TARGET inline __attribute__((always_inline)) static

namespace {

constexpr int kTileRows = 14;

template <typename T>
struct Vector;

template <>
struct Vector<float> {
  using type = __m512;
  static constexpr int lanes = 16;
  POTION_VECTOR type zero() { return _mm512_setzero_ps(); }
  POTION_VECTOR type load(const float* p) { return _mm512_loadu_ps(p); }
  POTION_VECTOR void store(float* p, type v) { _mm512_storeu_ps(p, v); }
  POTION_VECTOR type broadcast(float x) { return _mm512_set1_ps(x); }
  POTION_VECTOR type multiply_add(type a, type b, type c) { return _mm512_fmadd_ps(a, b, c); }
  POTION_VECTOR type add(type a, type b) { return _mm512_add_ps(a, b); }
  POTION_VECTOR type multiply(type a, type b) { return _mm512_mul_ps(a, b); }
  POTION_VECTOR type abs(type a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
};

template <>
struct Vector<double> {
  using type = __m512d;
  static constexpr int lanes = 8;
  POTION_VECTOR type zero() { return _mm512_setzero_pd(); }
  POTION_VECTOR type load(const double* p) { return _mm512_loadu_pd(p); }
  POTION_VECTOR void store(double* p, type v) { _mm512_storeu_pd(p, v); }
  POTION_VECTOR type broadcast(double x) { return _mm512_set1_pd(x); }
  POTION_VECTOR type multiply_add(type a, type b, type c) { return _mm512_fmadd_pd(a, b, c); }
  POTION_VECTOR type add(type a, type b) { return _mm512_add_pd(a, b); }
  POTION_VECTOR type multiply(type a, type b) { return _mm512_mul_pd(a, b); }
  POTION_VECTOR type abs(type a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a); }
};

}  // namespace

#include "cpu/tile.h"

namespace potion {

template <typename T>
const Tiles<T>& tiles_avx512() {
  static const Tiles<T> tiles = make_tiles<T>("AVX-512");
  return tiles;
}
template const Tiles<float>& tiles_avx512();
template const Tiles<double>& tiles_avx512();

}  // namespace potion
#endif
