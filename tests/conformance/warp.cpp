// Shuffles, votes, matches and reductions of a warp, with all lanes and with some; atomics; scans of a block.
// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#if defined(__CUDACC__)
#include <moesaic/device/block_scan.cuh>
#endif

namespace moesaic::conformance {

enum class shuffle : std::uint8_t { idx, up, down, bfly };

/// in: a word a lane, then what the shuffle takes: a lane, a distance, a mask. Lanes are split in two sets that call apart, `Low` lanes and
/// the others; each lane moves words within its set.
template <shuffle Kind, int Low>
struct shuffle_case {
  static constexpr word low = Low == 32 ? ~0u : (1u << Low) - 1u;
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = cuda::rung::simt;
    using params = buffers;
    struct shared {};
    MOESAIC_DEVICE static word move(word lanes, word value, int how) {
      if constexpr (Kind == shuffle::idx) return device::shfl_idx(lanes, value, how);
      else if constexpr (Kind == shuffle::up) return device::shfl_up(lanes, value, how);
      else if constexpr (Kind == shuffle::down) return device::shfl_down(lanes, value, how);
      else return device::shfl_bfly(lanes, value, how);
    }
    MOESAIC_DEVICE void operator()(params const& p) const {
      auto const lane = device::lane_id();
      auto const value = p.in[lane];
      auto const how = static_cast<int>(p.in[32 + lane]);
      word got = 0;
      if constexpr (Low == 32) {
        got = move(low, value, how);
      } else {
        if (lane < Low) got = move(low, value, how);
        else got = move(~low, value, how);
      }
      p.out[lane] = got;
    }
  };
  static int source(int lane, int how) {
    int const from = Kind == shuffle::idx ? how % 32 : Kind == shuffle::up ? lane - how : Kind == shuffle::down ? lane + how : lane ^ how;
    return from < 0 || from > 31 ? lane : from;
  }
  static words input(std::uint64_t seed) {
    auto in = random_words(seed, 64);
    random_stream r(seed + 1);
    auto const same = static_cast<word>(r.below(32));
    for (int lane = 0; lane < 32; ++lane) {
      // up, down and bfly: one number for all, as code has it; idx: any lane. Where that leaves the lane's own set, it takes its own.
      auto how = Kind == shuffle::idx ? static_cast<word>(r.below(32)) : same;
      bool const inside = Low == 32 || (source(lane, static_cast<int>(how)) < Low) == (lane < Low);
      if (!inside) how = Kind == shuffle::idx ? static_cast<word>(lane) : 0;
      in[static_cast<std::size_t>(32 + lane)] = how;
    }
    return in;
  }
  static words run(std::uint64_t seed) { return launch<kernel>(input(seed), 32); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words to;
    for (int lane = 0; lane < 32; ++lane)
      to.push_back(in[static_cast<std::size_t>(source(lane, static_cast<int>(in[static_cast<std::size_t>(32 + lane)])))]);
    return to;
  }
};

enum class together : std::uint8_t { ballot, match, add, least, largest };

/// in: a word a lane. Lanes with bit 8 of it and those without call apart.
template <together Kind>
struct together_case {
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = cuda::rung::sm80;
    using params = buffers;
    struct shared {};
    MOESAIC_DEVICE static word join(word lanes, word value) {
      if constexpr (Kind == together::ballot) return device::ballot(lanes, (value & 1u) != 0);
      else if constexpr (Kind == together::match) return device::match_any(lanes, value & 3u);
      else if constexpr (Kind == together::add) return device::redux_add(lanes, value);
      else if constexpr (Kind == together::least) return device::redux_min(lanes, value);
      else return device::redux_max(lanes, value);
    }
    MOESAIC_DEVICE void operator()(params const& p) const {
      auto const lane = device::lane_id();
      auto const value = p.in[lane];
      p.out[2 * lane] = join(device::all_lanes, value);
      bool const apart = (value & 256u) != 0;
      auto const mine = device::ballot(device::all_lanes, apart);
      p.out[2 * lane + 1] = apart ? join(mine, value) : join(~mine, value);
    }
  };
  static word join(word lanes, word mine, words const& values) {
    word sum = 0, least = ~0u, largest = 0, votes = 0, same = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      if ((lanes >> l & 1u) == 0) continue;
      auto const v = values[l];
      sum += v, least = v < least ? v : least, largest = v > largest ? v : largest;
      votes |= (v & 1u) << l;
      if ((v & 3u) == (mine & 3u)) same |= 1u << l;
    }
    return Kind == together::ballot  ? votes
           : Kind == together::match ? same
           : Kind == together::add   ? sum
           : Kind == together::least ? least
                                     : largest;
  }
  static words run(std::uint64_t seed) { return launch<kernel>(random_words(seed, 32), 64); }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 32);
    word apart = 0;
    for (std::size_t l = 0; l < 32; ++l) apart |= (in[l] >> 8 & 1u) << l;
    words to;
    for (std::size_t l = 0; l < 32; ++l) {
      to.push_back(join(~0u, in[l], in));
      to.push_back(join((apart >> l & 1u) != 0 ? apart : ~apart, in[l], in));
    }
    return to;
  }
};

/// Exclusive sums over 256 threads.
struct scan_case {
  struct kernel {
    static constexpr int threads = 256;
    static constexpr cuda::rung needs = cuda::rung::simt;
    using params = buffers;
    using scan = device::block_scan<threads>;
    struct shared {
      scan::scratch scratch;
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      auto const t = device::thread_id();
      std::int32_t total = 0;
      p.out[t] = static_cast<word>(scan::exclusive_sum(static_cast<std::int32_t>(p.in[t]), total, device::shared<shared>().scratch));
      p.out[256 + t] = static_cast<word>(total);
    }
  };
  static words input(std::uint64_t seed) {
    auto in = random_words(seed, 256);
    for (auto& w : in) w &= 0xffffu;
    return in;
  }
  static words run(std::uint64_t seed) { return launch<kernel>(input(seed), 512); }
  static words expected(std::uint64_t seed) {
    words to;
    word sum = 0;
    for (auto const w : input(seed)) to.push_back(sum), sum += w;
    to.resize(512, sum);
    return to;
  }
};

/// Two words of memory that 4 blocks of 64 threads add to and raise; one that is exchanged.
struct atomic_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::simt;
    using params = buffers;
    struct shared {
      word sum, most;
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const t = thread_id();
      if (t == 0) s.sum = 0, s.most = 0;
      block_sync();
      auto const value = p.in[block_x() * threads + t];
      atomic_add(&p.out[0], value);
      atomic_max(&p.out[1], value);
      atomic_add(&s.sum, value);
      atomic_max(&s.most, value);
      block_sync();
      if (t == 0) {
        p.out[2 + 3 * block_x()] = s.sum;
        p.out[3 + 3 * block_x()] = s.most;
        p.out[4 + 3 * block_x()] = atomic_exch(&s.sum, value) + s.sum;
      }
    }
  };
  static words run(std::uint64_t seed) {
    return launch<kernel>({.x = 4}, random_words(seed, 256), words(14, 0), [](buffers const& b) { return b; });
  }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 256);
    words to(14, 0);
    for (std::size_t b = 0; b < 4; ++b) {
      word sum = 0, most = 0;
      for (std::size_t t = 0; t < 64; ++t) sum += in[64 * b + t], most = in[64 * b + t] > most ? in[64 * b + t] : most;
      to[0] += sum, to[1] = most > to[1] ? most : to[1];
      to[2 + 3 * b] = sum, to[3 + 3 * b] = most, to[4 + 3 * b] = sum + in[64 * b];
    }
    return to;
  }
};

cases warp_cases() {
  cases to;
  add<shuffle_case<shuffle::idx, 32>>(to, "shfl.idx");
  add<shuffle_case<shuffle::up, 32>>(to, "shfl.up");
  add<shuffle_case<shuffle::down, 32>>(to, "shfl.down");
  add<shuffle_case<shuffle::bfly, 32>>(to, "shfl.bfly");
  add<shuffle_case<shuffle::idx, 11>>(to, "shfl.idx.lanes11");
  add<shuffle_case<shuffle::up, 16>>(to, "shfl.up.lanes16");
  add<shuffle_case<shuffle::down, 16>>(to, "shfl.down.lanes16");
  add<shuffle_case<shuffle::bfly, 8>>(to, "shfl.bfly.lanes8");
  add<together_case<together::ballot>>(to, "vote.ballot");
  add<together_case<together::match>>(to, "match.any");
  add<together_case<together::add>>(to, "redux.add");
  add<together_case<together::least>>(to, "redux.min");
  add<together_case<together::largest>>(to, "redux.max");
  add<scan_case>(to, "block_scan");
  add<atomic_case>(to, "atomics");
  return to;
}

}  // namespace moesaic::conformance
