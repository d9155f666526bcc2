// Every primitive of device/ in kernels that do nothing else: what nvcc and ptxas must take, for every architecture, without a spilled register.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include <moesaic/cuda/launch.cuh>

namespace every_primitive {

using namespace moesaic;
using namespace moesaic::device;
using cuda::rung;

struct words {
  std::uint32_t* word;
  float* real;
  tensor_map map;
};
struct room {
  alignas(1024) std::uint32_t tile[1024];
  mbarrier barrier;
};

struct any_gpu {
  static constexpr int threads = 64;
  static constexpr rung needs = rung::simt;
  using params = words;
  using shared = room;
  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    auto const t = thread_id();
    auto sum = static_cast<std::uint32_t>(block_x() + block_y() + block_z() + grid_x() + grid_y() + grid_z()) + shared_address(s.tile);
    s.tile[t] = sum;
    block_sync();
    if (warp_id() == 0) bar_arrive(1, 64);
    else bar_sync(1, 64);
    warp_sync();
    sum += shfl_idx(all_lanes, sum, 3) + shfl_up(all_lanes, sum, 1) + shfl_down(all_lanes, sum, 2) + shfl_bfly(all_lanes, sum, 16);
    sum += ballot(all_lanes, sum > 9) + match_any(all_lanes, sum);
    sum += atomic_add(p.word, sum) + atomic_add_acq_rel(p.word, sum) + atomic_max(p.word, sum) + atomic_exch(p.word, sum);
    while (load_acquire(p.word + 1) == 0) nanosleep(20);
    fence_gpu();
    store_release(p.word + 2, sum);
    auto const four = load_nc(reinterpret_cast<words4 const*>(p.word) + t);
    sum += prmt(four.word[0], four.word[1], four.word[2]) + lop3<0xE8>(four.word[3], sum, s.tile[63 - t]);
    p.word[t] = sum;
    p.real[t] = ex2_approx(p.real[t]) + rcp_approx(p.real[t]) + rsqrt_approx(p.real[t]) + device::fma(p.real[t], 2.0f, 1.0f);
  }
};

template <dtype T>
MOESAIC_DEVICE void product(words const& p, std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]) {
  mma_accumulator<T> d[4] = {};
  mma_sync<T>(d, a, b);
  for (int i = 0; i < 4; ++i) p.real[4 * thread_id() + i] += static_cast<float>(d[i]);
}

struct ampere {
  static constexpr int threads = 64;
  static constexpr rung needs = rung::sm80;
  using params = words;
  using shared = room;
  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    auto const t = thread_id();
    cp_async<4>(s.tile + t, p.word + t);
    cp_async<8>(s.tile + 64 + 2 * t, p.word + 64 + 2 * t);
    cp_async<16>(s.tile + 256 + 4 * t, p.word + 256 + 4 * t, t < 60 ? 16 : 0);
    cp_async_commit_group();
    cp_async_wait_group<1>();
    cp_async_wait_group<0>();
    block_sync();
    std::uint32_t one[1], two[2], four[4];
    ldmatrix(one, s.tile + 4 * t);
    ldmatrix(two, s.tile + 4 * t);
    ldmatrix(four, s.tile + 4 * t);
    product<dtype::bf16>(p, four, two);
    ldmatrix_trans(one, s.tile + 4 * (t ^ 1));
    ldmatrix_trans(two, s.tile + 4 * (t ^ 1));
    ldmatrix_trans(four, s.tile + 4 * (t ^ 1));
    two[0] ^= one[0];
    product<dtype::fp16>(p, four, two);
    product<dtype::int8>(p, four, two);
    p.word[t] = redux_add(all_lanes, four[0]) + redux_min(all_lanes, four[1]) + redux_max(all_lanes, four[2]) + cvt_bf16x2(p.real[0], p.real[1]) +
                cvt_f16x2(p.real[2], p.real[3]) + fma_bf16x2(four[0], four[1], four[3]);
  }
};

struct hopper {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::sm90;
  using params = words;
  using shared = room;
  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    auto const t = thread_id();
    griddepcontrol_wait();
    if (t == 0) {
      prefetch_tensormap(&p.map);
      mbarrier_init(&s.barrier, 1);
      fence_mbarrier_init();
    }
    cluster_arrive();
    cluster_wait();
    if (t == 0) {
      bulk_prefetch(p.word, 256);
      mbarrier_expect_tx(&s.barrier, 4096);
      mbarrier_arrive_expect_tx(&s.barrier, 4096);
      bulk_load(s.tile, p.word, 4096, &s.barrier);
      tma_load_1d(s.tile, &p.map, &s.barrier, 1);
      tma_load_2d(s.tile, &p.map, &s.barrier, 1, 2);
      tma_load_3d(s.tile, &p.map, &s.barrier, 1, 2, 3);
      tma_load_4d(s.tile, &p.map, &s.barrier, 1, 2, 3, 4);
      tma_load_5d(s.tile, &p.map, &s.barrier, 1, 2, 3, 4, 5);
      tma_load_2d_multicast(s.tile, &p.map, &s.barrier, 3, 1, 2);
      tma_load_3d_multicast(s.tile, &p.map, &s.barrier, 3, 1, 2, 3);
      mbarrier_arrive(&s.barrier);
      mbarrier_arrive_cluster(&s.barrier, 1);
    }
    cp_async_mbarrier_arrive_noinc(&s.barrier);
    mbarrier_wait(&s.barrier, 0);
    mbarrier_wait_cluster(&s.barrier, 1);
    std::uint32_t one[1], two[2], four[4];
    ldmatrix(one, s.tile + 4 * t);
    ldmatrix(two, s.tile + 4 * t);
    ldmatrix(four, s.tile + 4 * t);
    stmatrix(s.tile + 4 * t, one);
    stmatrix(s.tile + 4 * t, two);
    stmatrix(s.tile + 4 * t, four);
    stmatrix_trans(s.tile + 4 * t, one);
    stmatrix_trans(s.tile + 4 * t, two);
    stmatrix_trans(s.tile + 4 * t, four);
    product<dtype::e4m3>(p, four, two);
    fence_proxy_async();
    block_sync();
    if (t == 0) {
      bulk_store(p.word, s.tile, 4096);
      cp_async_bulk_commit_group();
      cp_async_bulk_wait_group<1>();
      tma_store_1d(&p.map, s.tile, 1);
      tma_store_2d(&p.map, s.tile, 1, 2);
      tma_store_3d(&p.map, s.tile, 1, 2, 3);
      tma_store_4d(&p.map, s.tile, 1, 2, 3, 4);
      tma_store_5d(&p.map, s.tile, 1, 2, 3, 4, 5);
      cp_async_bulk_commit_group();
      cp_async_bulk_wait_group_read<0>();
      mbarrier_inval(&s.barrier);
    }
    griddepcontrol_launch_dependents();
    auto const there = mapa(s.tile + t, cluster_blocks() - 1 - cluster_rank());
    store_cluster(there, load_cluster(there) + atomic_add_cluster(there, 1));
    p.word[t] = cvt_e4m3x2(p.real[t], p.real[t + 1]);
  }
};

/// A producer and a consumer of a warp-specialised kernel, in registers alone.
struct uneven {
  static constexpr int threads = 256;
  static constexpr rung needs = rung::sm90;
  using params = words;
  struct shared {};
  MOESAIC_DEVICE void operator()(params const& p) const {
    if (warpgroup_id() == 0) {
      setmaxnreg_dec<40>();
      p.word[thread_id()] = 1;
    } else {
      setmaxnreg_inc<232>();
      p.word[thread_id()] = 2;
    }
  }
};

/// wgmma of one N in every form.
template <dtype T, int N>
struct warpgroup_product {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::sm90;
  using params = words;
  using shared = room;
  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    std::uint32_t a[4];
    ldmatrix(a, s.tile + 4 * thread_id());
    auto const left = wgmma_descriptor(shared_address(s.tile), 16, 1024, swizzle::b128), right = wgmma_descriptor(shared_address(s.tile), 16, 512, swizzle::b64);
    mma_accumulator<T> d[N / 2];
    wgmma_hold(d);
    wgmma_hold(a);
    wgmma_fence();
    wgmma<T, N>(d, left, right, false);
    wgmma<T, N>(d, a, right, true);
    if constexpr (bits(T) == 16) {
      wgmma<T, N, major::mn>(d, left, right, true);
      wgmma<T, N, major::k, major::mn>(d, left, right, true);
      wgmma<T, N, major::mn, major::mn>(d, left, right, true);
      wgmma<T, N, major::mn>(d, a, right, true);
    }
    wgmma_commit_group();
    wgmma_wait_group<0>();
    wgmma_hold(d);
    MOESAIC_UNROLL
    for (int i = 0; i < N / 2; ++i) p.real[i * 128 + thread_id()] = static_cast<float>(d[i]);
  }
};

template <class Kernel>
status launch_of(cuda::stream& where, words const& p) {
  return cuda::launch<Kernel>(where, {.x = 2, .cluster = 2}, p);
}
template <dtype T, int... Eighths>
bool launch_products(cuda::stream& where, words const& p, std::integer_sequence<int, Eighths...>) {
  auto const one = [&]<int N>(std::integral_constant<int, N>) {
    if constexpr (T != dtype::int8 || N <= 32 || N % 16 == 0) return bool(launch_of<warpgroup_product<T, N>>(where, p));
    else return true;
  };
  return (one(std::integral_constant<int, 8 * Eighths + 8>{}) && ...);
}

}  // namespace every_primitive

bool launch_every_primitive(moesaic::cuda::stream& where, every_primitive::words const& p) {
  using namespace every_primitive;
  auto done = launch_of<any_gpu>(where, p) && launch_of<ampere>(where, p);
  if constexpr (cuda::default_tuning::has(rung::sm90)) {
    constexpr std::make_integer_sequence<int, 32> widths{};
    done = done && launch_of<hopper>(where, p) && launch_of<uneven>(where, p) && launch_products<dtype::bf16>(where, p, widths) &&
           launch_products<dtype::fp16>(where, p, widths) && launch_products<dtype::e4m3>(where, p, widths) && launch_products<dtype::int8>(where, p, widths);
  }
  return done;
}
