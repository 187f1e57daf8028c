// Tiles in plain C++: 4 × 8 floats, which compilers put into the 16 registers of SSE2 and NEON.
#include <cmath>
#include <cstring>

#define POTION_TARGET

namespace {

constexpr int kTileRows = 4;

template <typename T>
struct Vector {
  static constexpr int lanes = 16 / sizeof(T);
#if defined(__GNUC__)
  using type __attribute__((vector_size(16))) = T;
#else
  struct type {
    T x[lanes];
    T& operator[](int i) { return x[i]; }
    T operator[](int i) const { return x[i]; }
  };
#endif
  template <typename F>
  static inline type each(const F& f) {
    type v{};
    for (int i = 0; i < lanes; ++i) v[i] = f(i);
    return v;
  }
  static inline type zero() { return broadcast(T(0)); }
  static inline type load(const T* p) {
    type v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static inline void store(T* p, type v) { std::memcpy(p, &v, sizeof v); }
  static inline type broadcast(T x) {
    return each([&](int) { return x; });
  }
#if defined(__GNUC__)
  static inline type multiply_add(type a, type b, type c) { return a * b + c; }
  static inline type add(type a, type b) { return a + b; }
  static inline type multiply(type a, type b) { return a * b; }
#else
  static inline type multiply_add(type a, type b, type c) {
    return each([&](int i) { return a[i] * b[i] + c[i]; });
  }
  static inline type add(type a, type b) {
    return each([&](int i) { return a[i] + b[i]; });
  }
  static inline type multiply(type a, type b) {
    return each([&](int i) { return a[i] * b[i]; });
  }
#endif
  static inline type abs(type a) {
    return each([&](int i) { return std::fabs(a[i]); });
  }
};

}  // namespace

#include "cpu/tile.h"

namespace potion {

template <typename T>
const Tiles<T>& tiles_portable() {
  static const Tiles<T> tiles = make_tiles<T>("baseline");
  return tiles;
}
template const Tiles<float>& tiles_portable();
template const Tiles<double>& tiles_portable();

}  // namespace potion
