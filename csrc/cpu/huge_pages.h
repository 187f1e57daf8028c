// Huge pages for large arrays that are about to be written for the first time.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace potion {

// Asks for pages of 2 MB for what lies in whole ones: the kernel then stops the writer once for each of them instead of
// 512 times, and writes that go to many places at once find their addresses in the TLB. It is free to decline.
template <typename T>
void prefer_huge_pages(T* begin, std::int64_t n) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kPage = 1 << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::uintptr_t from = (address + kPage - 1) / kPage * kPage, to = (address + n * sizeof(T)) / kPage * kPage;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  static_cast<void>(begin), static_cast<void>(n);
#endif
}

}  // namespace potion
