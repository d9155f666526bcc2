// ldmatrix, stmatrix and mma.sync: fragments against plain loops.
// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

namespace moesaic::conformance {

// Rows of 16 bytes, each lane's somewhere: in holds 32 rows of 4 words, then the row that each lane points to.

template <int Tiles, bool Transposed>
struct ldmatrix_case {
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = cuda::rung::sm80;
    using params = buffers;
    struct shared {
      alignas(16) word rows[32][4];
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const lane = lane_id();
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) s.rows[lane][i] = p.in[4 * lane + i];
      warp_sync();
      std::uint32_t r[Tiles];
      if constexpr (Transposed) ldmatrix_trans<Tiles>(r, s.rows[p.in[128 + lane]]);
      else ldmatrix<Tiles>(r, s.rows[p.in[128 + lane]]);
      MOESAIC_UNROLL
      for (int i = 0; i < Tiles; ++i) p.out[Tiles * lane + i] = r[i];
    }
  };
  static words input(std::uint64_t seed) {
    auto in = random_words(seed, 128 + 32);
    random_stream r(seed + 1);
    for (word i = 0; i < 32; ++i) in[128 + i] = i;
    for (word i = 31; i > 0; --i) std::swap(in[128 + i], in[128 + static_cast<std::size_t>(r.below(i + 1))]);
    return in;
  }
  static words run(std::uint64_t seed) { return launch<kernel>(input(seed), 32 * Tiles); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words to(32 * Tiles);
    for (std::size_t lane = 0; lane < 32; ++lane)
      for (std::size_t i = 0; i < Tiles; ++i) {
        word pair = 0;
        for (std::size_t e = 0; e < 2; ++e) {
          auto row = lane / 4, column = 2 * (lane % 4) + e;
          if (Transposed) std::swap(row, column);
          auto const at = in[128 + 8 * i + row] * 4 + column / 2;
          pair |= (in[at] >> (16 * (column % 2)) & 0xffffu) << (16 * e);
        }
        to[Tiles * lane + i] = pair;
      }
    return to;
  }
};

template <int Tiles, bool Transposed>
struct stmatrix_case {
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = buffers;
    struct shared {
      alignas(16) word rows[32][4];
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const lane = lane_id();
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) s.rows[lane][i] = 0;
      warp_sync();
      std::uint32_t r[Tiles];
      MOESAIC_UNROLL
      for (int i = 0; i < Tiles; ++i) r[i] = p.in[Tiles * lane + i];
      if constexpr (Transposed) stmatrix_trans<Tiles>(s.rows[p.in[128 + lane]], r);
      else stmatrix<Tiles>(s.rows[p.in[128 + lane]], r);
      warp_sync();
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) p.out[4 * lane + i] = s.rows[lane][i];
    }
  };
  static words input(std::uint64_t seed) { return ldmatrix_case<Tiles, Transposed>::input(seed); }
  static words run(std::uint64_t seed) { return launch<kernel>(input(seed), 128); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words to(128, 0);
    for (std::size_t lane = 0; lane < 32; ++lane)
      for (std::size_t i = 0; i < Tiles; ++i)
        for (std::size_t e = 0; e < 2; ++e) {
          auto row = lane / 4, column = 2 * (lane % 4) + e;
          if (Transposed) std::swap(row, column);
          auto const at = in[128 + 8 * i + row] * 4 + column / 2;
          to[at] |= (in[Tiles * lane + i] >> (16 * e) & 0xffffu) << (16 * (column % 2));
        }
    return to;
  }
};

template <dtype T>
struct mma_case {
  static constexpr int k = device::mma_k<T>;
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = T == dtype::e4m3 ? cuda::rung::sm90 : cuda::rung::sm80;
    using params = buffers;
    struct shared {};
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto const lane = lane_id(), g = lane / 4, q = lane % 4;
      std::uint32_t const a[4] = {p.in[8 * g + q], p.in[8 * (g + 8) + q], p.in[8 * g + q + 4], p.in[8 * (g + 8) + q + 4]};
      std::uint32_t const b[2] = {p.in[128 + 8 * g + q], p.in[128 + 8 * g + q + 4]};
      mma_accumulator<T> d[4];
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) d[i] = static_cast<mma_accumulator<T>>(lane - 5 * i);
      mma_sync<T>(d, a, b);
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) p.out[4 * lane + i] = bit_cast<word>(d[i]);
    }
  };
  struct operands {
    random_stream r;
    matrix a, b;
    explicit operands(std::uint64_t seed) : r(seed), a(T, 16, k, r), b(T, 8, k, r) {}
  };
  static words run(std::uint64_t seed) {
    operands const o(seed);
    return launch<kernel>(joined(o.a.packed, o.b.packed), 128);
  }
  static words expected(std::uint64_t seed) {
    operands const o(seed);
    words to;
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        int sum = lane - 5 * i;
        for (int j = 0; j < k; ++j) sum += o.a.at(lane / 4 + 8 * (i / 2), j) * o.b.at(lane % 4 * 2 + i % 2, j);
        to.push_back(as_sum(T, sum));
      }
    return to;
  }
};

cases matrix_cases() {
  cases to;
  add<ldmatrix_case<1, false>>(to, "ldmatrix.x1");
  add<ldmatrix_case<2, false>>(to, "ldmatrix.x2");
  add<ldmatrix_case<4, false>>(to, "ldmatrix.x4");
  add<ldmatrix_case<1, true>>(to, "ldmatrix.x1.trans");
  add<ldmatrix_case<2, true>>(to, "ldmatrix.x2.trans");
  add<ldmatrix_case<4, true>>(to, "ldmatrix.x4.trans");
  add<stmatrix_case<1, false>>(to, "stmatrix.x1");
  add<stmatrix_case<2, false>>(to, "stmatrix.x2");
  add<stmatrix_case<4, false>>(to, "stmatrix.x4");
  add<stmatrix_case<1, true>>(to, "stmatrix.x1.trans");
  add<stmatrix_case<2, true>>(to, "stmatrix.x2.trans");
  add<stmatrix_case<4, true>>(to, "stmatrix.x4.trans");
  add<mma_case<dtype::bf16>>(to, "mma_sync.bf16");
  add<mma_case<dtype::fp16>>(to, "mma_sync.fp16");
  add<mma_case<dtype::int8>>(to, "mma_sync.int8");
  add<mma_case<dtype::e4m3>>(to, "mma_sync.e4m3");
  return to;
}

}  // namespace moesaic::conformance
