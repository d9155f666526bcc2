// mbarriers step by step: what phases end, and what a test of each parity answers, through arrivals, expected bytes and bytes that come.
// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

namespace moesaic::conformance {

enum step : word { arrive, expect, arrive_expect, copy, test, nothing };

/// One thread plays a list of steps: in holds pairs of a step and a number; out gets the answers of both parities at every test.
/// Bytes always come after they were expected: how far a count may go below zero is for hardware to say, and no kernel asks.
struct phases_case {
  static constexpr std::size_t length = 48;
  static constexpr word arrivals = 3;
  struct kernel {
    static constexpr int threads = 32;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = buffers;
    struct shared {
      alignas(128) word landing[64];
      device::mbarrier barrier;
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      if (thread_id() != 0) return;
      mbarrier_init(&s.barrier, arrivals);
      fence_mbarrier_init();
      word answers = 0;
      for (word i = 0; i < length; ++i) {
        auto const what = p.in[2 * i], number = p.in[2 * i + 1];
        if (what == arrive) mbarrier_arrive(&s.barrier);
        else if (what == expect) mbarrier_expect_tx(&s.barrier, number);
        else if (what == arrive_expect) mbarrier_arrive_expect_tx(&s.barrier, number);
        else if (what == copy) bulk_load(s.landing, p.in + 2 * length, number, &s.barrier);
        else if (what == test) {
          // A phase that has ended, or is bound to, is waited for: then both answers are certain.
          if (number & 2u) mbarrier_wait(&s.barrier, number & 1u);
          p.out[answers++] = mbarrier_try_wait_parity(&s.barrier, 0);
          p.out[answers++] = mbarrier_try_wait_parity(&s.barrier, 1);
        }
      }
      p.out[answers] = s.landing[0];
    }
  };

  /// A list that is legal, and what it answers.
  static void make(std::uint64_t seed, words& in, words& out) {
    random_stream r(seed);
    in = random_words(seed + 1, 2 * length + 64);
    out.assign(2 * length + 1, untouched);
    std::size_t at = 0, answers = 0;
    auto const put = [&](word what, word number) { in[2 * at] = what, in[2 * at + 1] = number, ++at; };
    word phase = 0, pending = arrivals, open = 0;   // open: bytes expected, their copies not asked for
    bool coming = false;                            // bytes may be on their way
    bool looked = false;                            // in this phase: threads that only look wait for ever
    auto const ended = [&] { return pending == 0 && open == 0; };
    auto const answer = [&] {   // of the two parities that of the phase before the current one has ended
      out[answers++] = phase & 1u;
      out[answers++] = ~phase & 1u;
    };
    auto const look = [&] {
      put(test, (phase & 1u) | 2u);
      ++phase, pending = arrivals, coming = looked = false;
      answer();
    };
    auto const look_early = [&] {
      put(test, 0), looked = true;
      answer();
    };
    put(expect, 16), put(copy, 16), coming = true;
    while (at + 6 < length) {
      if (ended()) {
        look();
        continue;
      }
      auto const bytes = static_cast<word>(16 * (1 + r.below(16)));
      switch (r.below(4)) {
        case 0:
          if (pending > 0) put(arrive, 0), --pending;
          break;
        case 1:
          if (open == 0 && !coming) put(expect, bytes), open = bytes;
          break;
        case 2:
          if (open == 0 && !coming) put(arrive_expect, bytes), open = bytes, --pending;
          break;
        default:
          if (open != 0) put(copy, open), open = 0, coming = true;
          else if (pending == arrivals && !coming && !looked) look_early();   // nothing of this phase has come
      }
    }
    if (open != 0) put(copy, open), open = 0;
    while (pending > 0) put(arrive, 0), --pending;
    look();
    while (at < length) put(nothing, 0);
    out[answers] = in[2 * length];
  }
  static words run(std::uint64_t seed) {
    words in, out;
    make(seed, in, out);
    return launch<kernel>(in, out.size());
  }
  static words expected(std::uint64_t seed) {
    words in, out;
    make(seed, in, out);
    return out;
  }
};

/// Blocks of a cluster write, add and read in each other's shared memory, and arrive at each other's barriers.
template <word Blocks>
struct cluster_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = buffers;
    struct shared {
      word landing[threads], sum;
      device::mbarrier barrier;
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const t = thread_id(), block = block_x();
      auto const further = [](int ranks) { return (cluster_rank() + ranks) % static_cast<int>(Blocks); };
      if (t == 0) {
        s.sum = static_cast<word>(cluster_blocks());
        mbarrier_init(&s.barrier, Blocks);
        fence_mbarrier_init();
      }
      cluster_arrive();
      cluster_wait();
      store_cluster(mapa(&s.landing[t], further(1)), p.in[block * threads + t]);
      atomic_add_cluster(mapa(&s.sum, further(2)), p.in[block * threads + t]);
      cluster_arrive();
      cluster_wait();
      p.out[block * (threads + 1) + t] = load_cluster(mapa(&s.landing[t], further(Blocks - 1)));
      if (t == 0) {
        p.out[block * (threads + 1) + threads] = s.sum;
        for (int rank = 0; rank < static_cast<int>(Blocks); ++rank) mbarrier_arrive_cluster(&s.barrier, rank);
      }
      mbarrier_wait_cluster(&s.barrier, 0);
      cluster_arrive();
      cluster_wait();
    }
  };
  static words run(std::uint64_t seed) {
    return launch<kernel>({.x = 2 * Blocks, .cluster = Blocks}, random_words(seed, 2 * Blocks * 64), words(2 * Blocks * 65, untouched),
                          [](buffers const& b) { return b; });
  }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 2 * Blocks * 64);
    words to;
    for (word block = 0; block < 2 * Blocks; ++block) {
      auto const two_before = block / Blocks * Blocks + (block % Blocks + 2 * Blocks - 2) % Blocks;
      word sum = Blocks;
      for (std::size_t t = 0; t < 64; ++t) to.push_back(in[two_before * 64 + t]), sum += in[two_before * 64 + t];
      to.push_back(sum);
    }
    return to;
  }
};

cases barrier_cases() {
  cases to;
  add<cluster_case<2>>(to, "cluster.2_blocks");
  add<cluster_case<4>>(to, "cluster.4_blocks");
  add<phases_case>(to, "mbarrier.phases");
  return to;
}

}  // namespace moesaic::conformance
