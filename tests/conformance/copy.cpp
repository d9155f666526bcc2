// The copy engine: boxes of tensors of 1 to 5 dimensions with every swizzle, inside, across and outside the tensor's edges; multicast;
// plain bulk copies; and cp.async with its zero fill.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "case.hpp"

namespace moesaic::conformance {

using device::swizzle;
using device::tensor_element;

constexpr std::size_t most_bytes = 16 * 1024;   // of a box
/// Bytes of a tensor's box, of its first dimension's 16-byte chunks swizzled: where byte `at` of the box lies.
std::size_t swizzled(std::size_t at, swizzle s) {
  if (s == swizzle::none) return at;
  auto const width = static_cast<std::size_t>(bytes_of(s));
  return at ^ at / 128 % 8 % (width / 16) * 16;
}

/// A tensor and its box, from a seed.
struct subject {
  device::tensor_description map;
  std::size_t tensor_words = 0, box_bytes = 0;
  std::array<int, 5> at{};

  subject(std::uint64_t seed, int dimensions, tensor_element element, swizzle s, std::uint32_t inner_bytes) {
    random_stream r(seed * 1000 + static_cast<std::uint64_t>(dimensions));
    auto const size = static_cast<std::uint32_t>(bytes_of(element));
    map.element = element;
    map.dimensions = dimensions;
    map.swizzle = s;
    std::uint64_t bytes = 0;
    box_bytes = inner_bytes;
    for (std::size_t d = 0; d < static_cast<std::size_t>(dimensions); ++d) {
      map.size[d] =
          d == 0 ? inner_bytes / size + static_cast<std::uint64_t>(r.below(inner_bytes)) : 3 + static_cast<std::uint64_t>(r.below(6));
      map.box[d] = d == 0 ? inner_bytes / size : 2 + static_cast<std::uint32_t>(r.below(dimensions > 3 ? 2 : 6));
      if (d > 0) {
        map.stride[d] = d == 1 ? (map.size[0] * size + 15) / 16 * 16 + 16 : bytes + 16 * static_cast<std::uint64_t>(r.below(3));
        box_bytes *= map.box[d];
      }
      bytes = d == 0 ? map.size[0] * size : map.stride[d] * map.size[d];
      at[d] = static_cast<int>(r.below(static_cast<std::int64_t>(map.size[d] + map.box[d]))) - static_cast<int>(map.box[d]) +
              1;  // some of the box lies inside
    }
    tensor_words = (bytes + 3) / 4 + 4;
  }
  /// Calls each(byte of the tensor or −1 if outside, byte of the box in shared memory) for every byte of the box.
  template <class Each>
  void for_each(Each each) const {
    auto const size = static_cast<std::uint32_t>(bytes_of(map.element));
    for (std::size_t b = 0; b < box_bytes; ++b) {
      auto element = b / size;
      auto from = static_cast<std::int64_t>(b % size);
      bool inside = true;
      for (std::size_t d = 0; d < static_cast<std::size_t>(map.dimensions); ++d) {
        auto const c = at[d] + static_cast<std::int64_t>(element % map.box[d]);
        element /= map.box[d];
        inside = inside && c >= 0 && c < static_cast<std::int64_t>(map.size[d]);
        from += c * static_cast<std::int64_t>(d == 0 ? size : map.stride[d]);
      }
      each(inside ? from : -1, swizzled(b, map.swizzle));
    }
  }
};

unsigned char byte_of(words const& w, std::size_t at) { return static_cast<unsigned char>(w[at / 4] >> at % 4 * 8); }
void set_byte(words& w, std::size_t at, unsigned char byte) {
  w[at / 4] = (w[at / 4] & ~(0xffu << at % 4 * 8)) | static_cast<word>(byte) << at % 4 * 8;
}

struct box_params : buffers {
  device::tensor_map map;
  int at[5] = {};
  word bytes = 0;
};
struct box_shared {
  alignas(1024) word box[most_bytes / 4];
  device::mbarrier barrier;
};

template <int Dimensions, tensor_element Element, swizzle Swizzle, word Inner>
struct tma_load_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = box_params;
    using shared = box_shared;
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      if (thread_id() == 0) {
        prefetch_tensormap(&p.map);
        mbarrier_init(&s.barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&s.barrier, p.bytes);
        if constexpr (Dimensions == 1) tma_load_1d(s.box, &p.map, &s.barrier, p.at[0]);
        else if constexpr (Dimensions == 2) tma_load_2d(s.box, &p.map, &s.barrier, p.at[0], p.at[1]);
        else if constexpr (Dimensions == 3) tma_load_3d(s.box, &p.map, &s.barrier, p.at[0], p.at[1], p.at[2]);
        else if constexpr (Dimensions == 4) tma_load_4d(s.box, &p.map, &s.barrier, p.at[0], p.at[1], p.at[2], p.at[3]);
        else tma_load_5d(s.box, &p.map, &s.barrier, p.at[0], p.at[1], p.at[2], p.at[3], p.at[4]);
      }
      block_sync();
      mbarrier_wait(&s.barrier, 0);
      for (word i = static_cast<word>(thread_id()); i < p.bytes / 4; i += threads) p.out[i] = s.box[i];
    }
  };
  static subject about(std::uint64_t seed) { return {seed, Dimensions, Element, Swizzle, Inner}; }
  static words run(std::uint64_t seed) {
    auto const of = about(seed);
    return launch<kernel>({}, random_words(seed, of.tensor_words), words(of.box_bytes / 4, untouched), [&](buffers const& b) {
      box_params p;
      static_cast<buffers&>(p) = b;
      auto map = of.map;
      map.data = b.in;
      need(encode(map, p.map), "tensor map");
      std::copy(of.at.begin(), of.at.end(), p.at);
      p.bytes = static_cast<word>(of.box_bytes);
      return p;
    });
  }
  static words expected(std::uint64_t seed) {
    auto const of = about(seed);
    auto const tensor = random_words(seed, of.tensor_words);
    words box(of.box_bytes / 4, untouched);
    of.for_each(
        [&](std::int64_t from, std::size_t to) { set_byte(box, to, from < 0 ? 0 : byte_of(tensor, static_cast<std::size_t>(from))); });
    return box;
  }
};

template <int Dimensions, tensor_element Element, swizzle Swizzle, word Inner>
struct tma_store_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = box_params;
    using shared = box_shared;
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      for (word i = static_cast<word>(thread_id()); i < p.bytes / 4; i += threads) s.box[i] = p.in[i];
      fence_proxy_async();
      block_sync();
      if (thread_id() == 0) {
        if constexpr (Dimensions == 1) tma_store_1d(&p.map, s.box, p.at[0]);
        else if constexpr (Dimensions == 2) tma_store_2d(&p.map, s.box, p.at[0], p.at[1]);
        else if constexpr (Dimensions == 3) tma_store_3d(&p.map, s.box, p.at[0], p.at[1], p.at[2]);
        else if constexpr (Dimensions == 4) tma_store_4d(&p.map, s.box, p.at[0], p.at[1], p.at[2], p.at[3]);
        else tma_store_5d(&p.map, s.box, p.at[0], p.at[1], p.at[2], p.at[3], p.at[4]);
        cp_async_bulk_commit_group();
        cp_async_bulk_wait_group<0>();
      }
    }
  };
  static subject about(std::uint64_t seed) { return {seed, Dimensions, Element, Swizzle, Inner}; }
  static words run(std::uint64_t seed) {
    auto const of = about(seed);
    return launch<kernel>({}, random_words(seed, of.box_bytes / 4), words(of.tensor_words, untouched), [&](buffers const& b) {
      box_params p;
      static_cast<buffers&>(p) = b;
      auto map = of.map;
      map.data = b.out;
      need(encode(map, p.map), "tensor map");
      std::copy(of.at.begin(), of.at.end(), p.at);
      p.bytes = static_cast<word>(of.box_bytes);
      return p;
    });
  }
  static words expected(std::uint64_t seed) {
    auto const of = about(seed);
    auto const box = random_words(seed, of.box_bytes / 4);
    words tensor(of.tensor_words, untouched);
    of.for_each([&](std::int64_t to, std::size_t from) {
      if (to >= 0) set_byte(tensor, static_cast<std::size_t>(to), byte_of(box, from));
    });
    return tensor;
  }
};

/// Blocks of a cluster each load a part of a box of 32 rows for all of them.
template <int Blocks>
struct multicast_case {
  static constexpr word rows = 32 / Blocks;
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = box_params;
    using shared = box_shared;
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const rank = static_cast<word>(cluster_rank());
      if (thread_id() == 0) {
        mbarrier_init(&s.barrier, 1);
        fence_mbarrier_init();
      }
      cluster_arrive();
      cluster_wait();
      if (thread_id() == 0) {
        mbarrier_arrive_expect_tx(&s.barrier, 32 * 128);
        tma_load_2d_multicast(s.box + rank * rows * 32, &p.map, &s.barrier, static_cast<std::uint16_t>((1u << Blocks) - 1u), p.at[0],
                              p.at[1] + static_cast<int>(rank * rows));
      }
      mbarrier_wait(&s.barrier, 0);
      for (word i = static_cast<word>(thread_id()); i < 1024; i += threads) p.out[static_cast<word>(block_x()) * 1024 + i] = s.box[i];
      cluster_arrive();
      cluster_wait();
    }
  };
  static device::tensor_description map() {
    return {.element = tensor_element::bf16,
            .dimensions = 2,
            .size = {100, 40},
            .stride = {0, 208},
            .box = {64, rows},
            .swizzle = swizzle::b128};
  }
  static words run(std::uint64_t seed) {
    return launch<kernel>({.x = 2 * Blocks, .cluster = Blocks}, random_words(seed, 40 * 52), words(2 * Blocks * 1024, untouched),
                          [&](buffers const& b) {
                            box_params p;
                            static_cast<buffers&>(p) = b;
                            auto of = map();
                            of.data = b.in;
                            need(encode(of, p.map), "tensor map");
                            p.at[0] = 50, p.at[1] = -3;
                            return p;
                          });
  }
  static words expected(std::uint64_t seed) {
    auto const tensor = random_words(seed, 40 * 52);
    words box(1024, 0);
    for (std::size_t b = 0; b < 32 * 128; ++b) {
      auto const column = 50 + static_cast<std::int64_t>(b % 128 / 2), row = static_cast<std::int64_t>(b / 128) - 3;
      bool const inside = column < 100 && row >= 0 && row < 40;
      set_byte(box, swizzled(b, swizzle::b128), inside ? byte_of(tensor, static_cast<std::size_t>(row * 208 + column * 2) + b % 2) : 0);
    }
    words all;
    for (int i = 0; i < 2 * Blocks; ++i) all.insert(all.end(), box.begin(), box.end());
    return all;
  }
};

/// 2048 bytes in by one bulk copy, out by another.
struct bulk_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = buffers;
    using shared = box_shared;
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      if (thread_id() == 0) {
        bulk_prefetch(p.in, 2048);
        mbarrier_init(&s.barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&s.barrier, 2048);
        bulk_load(s.box, p.in, 2048, &s.barrier);
      }
      block_sync();
      mbarrier_wait(&s.barrier, 0);
      for (int i = thread_id(); i < 512; i += threads) s.box[i] += 1;
      fence_proxy_async();
      block_sync();
      if (thread_id() == 0) {
        bulk_store(p.out + 4, s.box, 2048);
        cp_async_bulk_commit_group();
        cp_async_bulk_wait_group_read<0>();
        cp_async_bulk_wait_group<0>();
      }
    }
  };
  static words run(std::uint64_t seed) { return launch<kernel>(random_words(seed, 512), 520); }
  static words expected(std::uint64_t seed) {
    words to(520, untouched);
    auto const in = random_words(seed, 512);
    for (std::size_t i = 0; i < 512; ++i) to[4 + i] = in[i] + 1;
    return to;
  }
};

/// in: 64 threads' 16 bytes, then how many of them each copies.
template <int Bytes>
struct cp_async_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm80;
    using params = buffers;
    struct shared {
      alignas(16) word landing[2][threads][4];
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const t = thread_id();
      cp_async<Bytes>(s.landing[0][t], p.in + 4 * t, static_cast<int>(p.in[256 + t]));
      cp_async_commit_group();
      cp_async<Bytes>(s.landing[1][t], p.in + 4 * t);
      cp_async_commit_group();
      cp_async_wait_group<1>();
      for (int i = 0; i < Bytes / 4; ++i) p.out[8 * t + i] = s.landing[0][t][i];
      cp_async_wait_group<0>();
      block_sync();
      for (int i = 0; i < Bytes / 4; ++i) p.out[8 * t + 4 + i] = s.landing[1][t ^ 33][i];
    }
  };
  static words input(std::uint64_t seed) {
    auto in = random_words(seed, 320);
    for (std::size_t t = 0; t < 64; ++t) in[256 + t] %= Bytes + 1;
    return in;
  }
  static words run(std::uint64_t seed) { return launch<kernel>(input(seed), 512); }
  static words expected(std::uint64_t seed) {
    auto const in = input(seed);
    words to(512, untouched);
    for (std::size_t t = 0; t < 64; ++t)
      for (std::size_t b = 0; b < Bytes; ++b) {
        set_byte(to, 32 * t + b, b < in[256 + t] ? byte_of(in, 16 * t + b) : 0);
        set_byte(to, 32 * t + 16 + b, byte_of(in, 16 * (t ^ 33) + b));
      }
    return to;
  }
};

/// Copies of 64 threads reported to one mbarrier, twice.
struct cp_async_mbarrier_case {
  struct kernel {
    static constexpr int threads = 64;
    static constexpr cuda::rung needs = cuda::rung::sm90;
    using params = buffers;
    struct shared {
      alignas(16) word landing[threads][4];
      device::mbarrier barrier;
    };
    MOESAIC_DEVICE void operator()(params const& p) const {
      using namespace device;
      auto& s = device::shared<shared>();
      auto const t = thread_id();
      if (t == 0) {
        mbarrier_init(&s.barrier, threads);
        fence_mbarrier_init();
      }
      block_sync();
      for (word phase = 0; phase < 2; ++phase) {
        cp_async<16>(s.landing[t], p.in + 256 * phase + 4 * static_cast<word>(t));
        cp_async_mbarrier_arrive_noinc(&s.barrier);
        mbarrier_wait(&s.barrier, phase);
        for (int i = 0; i < 4; ++i) p.out[256 * phase + 4 * static_cast<word>(t) + static_cast<word>(i)] = s.landing[t ^ 33][i];
        block_sync();
      }
    }
  };
  static words run(std::uint64_t seed) { return launch<kernel>(random_words(seed, 512), 512); }
  static words expected(std::uint64_t seed) {
    auto const in = random_words(seed, 512);
    words to;
    for (std::size_t i = 0; i < 512; ++i) to.push_back(in[i ^ 33 * 4]);
    return to;
  }
};

template <int Dimensions, tensor_element Element, swizzle Swizzle, word Inner>
void add_box(cases& to, char const* element) {
  auto const name = std::to_string(Dimensions) + "d." + element + "." + name_of(Swizzle) + "." + std::to_string(Inner) + "_bytes";
  add<tma_load_case<Dimensions, Element, Swizzle, Inner>>(to, "tma_load." + name);
  add<tma_store_case<Dimensions, Element, Swizzle, Inner>>(to, "tma_store." + name);
}

cases copy_cases() {
  cases to;
  add_box<1, tensor_element::bf16, swizzle::none, 256>(to, "bf16");
  add_box<1, tensor_element::u32, swizzle::b128, 128>(to, "u32");
  add_box<2, tensor_element::bf16, swizzle::none, 64>(to, "bf16");
  add_box<2, tensor_element::bf16, swizzle::b32, 32>(to, "bf16");
  add_box<2, tensor_element::bf16, swizzle::b64, 64>(to, "bf16");
  add_box<2, tensor_element::bf16, swizzle::b128, 128>(to, "bf16");
  add_box<2, tensor_element::u8, swizzle::none, 112>(to, "u8");
  add_box<2, tensor_element::u8, swizzle::b128, 128>(to, "u8");
  add_box<2, tensor_element::u16, swizzle::b64, 64>(to, "u16");
  add_box<2, tensor_element::fp16, swizzle::b32, 32>(to, "fp16");
  add_box<2, tensor_element::fp32, swizzle::b128, 128>(to, "fp32");
  add_box<3, tensor_element::bf16, swizzle::none, 48>(to, "bf16");
  add_box<3, tensor_element::bf16, swizzle::b32, 32>(to, "bf16");
  add_box<3, tensor_element::u8, swizzle::b64, 64>(to, "u8");
  add_box<3, tensor_element::bf16, swizzle::b128, 128>(to, "bf16");
  add_box<4, tensor_element::bf16, swizzle::none, 32>(to, "bf16");
  add_box<4, tensor_element::fp32, swizzle::b64, 64>(to, "fp32");
  add_box<4, tensor_element::bf16, swizzle::b128, 128>(to, "bf16");
  add_box<5, tensor_element::u32, swizzle::none, 32>(to, "u32");
  add_box<5, tensor_element::bf16, swizzle::b32, 32>(to, "bf16");
  add_box<5, tensor_element::u8, swizzle::b128, 128>(to, "u8");
  add<multicast_case<2>>(to, "tma_load.2d.multicast.2_blocks");
  add<multicast_case<4>>(to, "tma_load.2d.multicast.4_blocks");
  add<bulk_case>(to, "bulk_load_store");
  add<cp_async_case<4>>(to, "cp_async.4_bytes");
  add<cp_async_case<8>>(to, "cp_async.8_bytes");
  add<cp_async_case<16>>(to, "cp_async.16_bytes");
  add<cp_async_mbarrier_case>(to, "cp_async.mbarrier");
  return to;
}

}  // namespace moesaic::conformance
