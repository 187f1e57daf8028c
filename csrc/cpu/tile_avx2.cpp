// Tiles in AVX2 with FMA: 6 × 16 floats in 12 of the 16 registers.
#include "cpu/parallel.h"

#if POTION_HAS_AVX2
#include <immintrin.h>

#define POTION_TARGET __attribute__((target("avx2,fma")))
#define POTION_VECTOR POTION_TARGET inline __attribute__((always_inline)) static

namespace {

constexpr int kTileRows = 6;

template <typename T>
struct Vector;

template <>
struct Vector<float> {
  using type = __m256;
  static constexpr int lanes = 8;
  POTION_VECTOR type zero() { return _mm256_setzero_ps(); }
  POTION_VECTOR type load(const float* p) { return _mm256_loadu_ps(p); }
  POTION_VECTOR void store(float* p, type v) { _mm256_storeu_ps(p, v); }
  POTION_VECTOR type broadcast(float x) { return _mm256_set1_ps(x); }
  POTION_VECTOR type multiply_add(type a, type b, type c) { return _mm256_fmadd_ps(a, b, c); }
  POTION_VECTOR type add(type a, type b) { return _mm256_add_ps(a, b); }
  POTION_VECTOR type multiply(type a, type b) { return _mm256_mul_ps(a, b); }
  POTION_VECTOR type abs(type a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
};

template <>
struct Vector<double> {
  using type = __m256d;
  static constexpr int lanes = 4;
  POTION_VECTOR type zero() { return _mm256_setzero_pd(); }
  POTION_VECTOR type load(const double* p) { return _mm256_loadu_pd(p); }
  POTION_VECTOR void store(double* p, type v) { _mm256_storeu_pd(p, v); }
  POTION_VECTOR type broadcast(double x) { return _mm256_set1_pd(x); }
  POTION_VECTOR type multiply_add(type a, type b, type c) { return _mm256_fmadd_pd(a, b, c); }
  POTION_VECTOR type add(type a, type b) { return _mm256_add_pd(a, b); }
  POTION_VECTOR type multiply(type a, type b) { return _mm256_mul_pd(a, b); }
  POTION_VECTOR type abs(type a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
};

}  // namespace

#include "cpu/tile.h"

namespace potion {

template <typename T>
const Tiles<T>& tiles_avx2() {
  static const Tiles<T> tiles = make_tiles<T>("AVX2");
  return tiles;
}
template const Tiles<float>& tiles_avx2();
template const Tiles<double>& tiles_avx2();

}  // namespace potion
#endif
