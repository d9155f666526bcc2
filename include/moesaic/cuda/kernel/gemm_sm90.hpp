// Products over runs of slots by wgmma: one warpgroup brings operands into a ring in shared memory, the others multiply, scale, and finish outputs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/math.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>
#include <moesaic/cuda/kernel/gemm_sm90_codes.hpp>
#include <moesaic/cuda/kernel/gemm_sm90_epilogue.hpp>
#include <moesaic/cuda/kernel/tile_schedule.hpp>
#include <moesaic/cuda/tuning/gemm_sm90.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// What is multiplied. Weights W and activations X (bf16, or e4m3 with a scale for each 128 inputs) make outputs Y.
///   bf16 × bf16, e4m3 × e4m3         both operands are read from shared memory
///   int4, int8, mxfp4, e4m3 × bf16   weights become bf16 in registers, exactly
/// Sums of `Interval` inputs (32, 64 or 128, of groups of as many, of 64, or of a multiple of 128) are multiplied by their scale in fp32 before they
/// join the others; mxfp4's powers of two join the codes, exactly.
template <dtype W, class X, class Y, int Interval = 128>
struct gemm_sm90_problem {
  using x = X;
  using y = Y;
  static constexpr dtype weights = W;
  static constexpr int interval = Interval;
};

template <class Problem, run_length Runs, class Tuning = gemm_sm90_tuning>
struct gemm_sm90 {
  using X = typename Problem::x;
  using Y = typename Problem::y;
  static constexpr dtype weights = Problem::weights, activations = dtype_of<X>;
  static constexpr gemm_sm90_sizes sizes = Tuning::sizes(weights, activations, Runs);
  static constexpr gemm_sm90_stage stage = stage_of(weights, activations, Problem::interval, sizes);

  static constexpr int threads = sizes.threads();
  static constexpr int blocks = sizes.blocks;
  static constexpr rung needs = rung::sm90;

  struct params {
    gemm_params<X, Y> product;
    float const* x_scales = nullptr;       ///< [rows of x, blocks of 128 inputs], of e4m3 activations
    std::int64_t x_scales_stride = 0;
    std::int32_t groups = 1;               ///< of weights that a stage holds: what the boxes of scales and zeros have
    device::tensor_map weights{}, slots{}, scales{}, zeros{};   ///< slots: where rows of x are not gathered; scales and zeros as the format has them
  };
  struct shared {
    alignas(1024) std::byte ring[sizes.stages * stage.bytes()];
    device::mbarrier full[sizes.stages], empty[sizes.stages];
  };
  static_assert(sizeof(shared) == shared_bytes(stage, sizes));

  MOESAIC_DEVICE void operator()(params const& p) const {
    auto& s = device::shared<shared>();
    if (device::thread_id() == 0) {
      for (int i = 0; i < stages; ++i) {
        device::mbarrier_init(&s.full[i], copies(p) ? 1 + producer_warps : 1);
        device::mbarrier_init(&s.empty[i], 4 * consumers * cluster);
      }
      device::fence_mbarrier_init();
      device::prefetch_tensormap(&p.weights);
    }
    meet();
    device::griddepcontrol_launch_dependents();
    if (device::warp_id() == 0) look_ahead(p.product);
    device::griddepcontrol_wait();
    if (device::warpgroup_id() == 0) {
      if constexpr (producer_registers != 0) device::setmaxnreg_dec<producer_registers>();
      produce(p, s);
      if constexpr (cluster > 1) meet();             // no block ends while another may still report to it
    } else {
      if constexpr (consumer_registers != 0) device::setmaxnreg_inc<consumer_registers>();
      consume(p, s);
      if constexpr (cluster > 1) meet();
    }
  }

 private:
  static constexpr int cluster = sizes.cluster, stages = sizes.stages, consumers = sizes.consumers, n = sizes.n, slots = sizes.slots(), rows = sizes.rows();
  static constexpr int producer_registers = sizes.producer_registers, consumer_registers = sizes.consumer_registers;
  static constexpr int inputs = stage.inputs, stage_bytes = stage.bytes();
  static constexpr int slots_at = stage.slots_at(), scales_at = stage.scales_at(), zeros_at = stage.zeros_at(), slot_scales_at = stage.slot_scales_at();
  static constexpr int weight_bytes = stage.weight_bytes, slot_bytes = stage.slot_bytes, scale_bytes = stage.scale_bytes, zero_bytes = stage.zero_bytes;
  static constexpr bool weights_on_m = sizes.weights_on_m, through_registers = weights != activations;
  static constexpr bool scales_slots = stage.slot_scale_bytes != 0;
  static constexpr int producer_warps = 4;
  static_assert(cluster == 1 || !through_registers, "codes are too few bytes to be worth sharing");
  // Slots lie in boxes of 128 bytes of inputs, the swizzle's width.
  static constexpr int box_inputs = 128 / static_cast<int>(sizeof(X)), boxes = inputs / box_inputs, box_bytes = slots * 128;

  MOESAIC_DEVICE static bool gathers(params const& a) { return a.product.token_of_slot != nullptr; }
  MOESAIC_DEVICE static bool copies(params const& a) { return scales_slots || gathers(a); }

  using ring = device::ring<stages>;

  // The tiles of a cluster, and in each this block's slots: its blocks have the same rows of weights.
  class schedule {
   public:
    MOESAIC_DEVICE explicit schedule(gemm_params<X, Y> const& p) : order_(p) {}
    MOESAIC_DEVICE product_tile next() {
      product_tile t = order_.find(number_);
      number_ += device::grid_x() / cluster;
      if constexpr (cluster > 1) {
        t.first = smaller(t.first + rank() * slots, t.last);
        t.last = smaller(t.first + slots, t.last);
      }
      return t;
    }

   private:
    MOESAIC_DEVICE static int smaller(int a, int b) { return b < a ? b : a; }
    tile_schedule<slots * cluster, rows> order_;
    int number_ = device::block_x() / cluster;
  };
  MOESAIC_DEVICE static int rank() { return cluster > 1 ? device::cluster_rank() : 0; }
  MOESAIC_DEVICE static void meet() {
    if constexpr (cluster > 1) {
      device::cluster_arrive();
      device::cluster_wait();
    } else {
      device::block_sync();
    }
  }

  // Weights of the first stages, to L2 before the grids before this one have ended. Which experts there will be is known only then.
  MOESAIC_DEVICE static void look_ahead(gemm_params<X, Y> const& p) {
    if (p.offsets != nullptr) return;
    schedule order(p);
    product_tile const t = order.next();
    if (!t) return;
    constexpr int line_rows = layout::in_stripes(weights) ? layout::stripe_rows : 1;   // rows that lie side by side
    int const line_bytes = p.w.inputs * bits(weights) / 8 * line_rows;
    constexpr int at_most = stages * inputs * bits(weights) / 8 * line_rows;
    for (int line = device::lane_id(); line < rows / line_rows; line += device::warp_size) {
      int const at = t.row / line_rows + line;
      if (at * line_rows < p.w.rows)
        device::bulk_prefetch(p.w.data + static_cast<std::int64_t>(at) * line_bytes, static_cast<std::uint32_t>(line_bytes < at_most ? line_bytes : at_most));
    }
  }

  // ---- the producer ------------------------------------------------------------------------------------------------------------------

  // The copy engine brings rows of weights, and slots where they lie side by side. Gathered rows and scales of slots are the threads' own copies
  // (cp.async): after `lag` more stages they are waited for, shown to the tensor cores and reported, so that some are always under way.
  MOESAIC_DEVICE static void produce(params const& a, shared& s) {
    bool const own_copies = copies(a);
    if (!own_copies && device::warp_id() != 0) return;
    constexpr int lag = stages / 2;
    auto const& p = a.product;
    schedule order(p);
    ring next, landed;
    int under_way = 0;
    auto const tell = [&] {
      device::fence_proxy_async();
      device::warp_sync();
      if (device::lane_id() == 0) device::mbarrier_arrive(&s.full[landed.stage]);
      landed.advance();
    };
    for (;;) {
      product_tile const t = order.next();
      if (!t) break;
      copier const copy(a, t);
      for (int k = 0; k < p.w.inputs; k += inputs) {
        if constexpr (cluster > 1) device::mbarrier_wait_cluster(&s.empty[next.stage], next.parity ^ 1u);
        else device::mbarrier_wait(&s.empty[next.stage], next.parity ^ 1u);
        std::byte* const at = s.ring + next.stage * stage_bytes;
        if (device::thread_id() == 0) load(a, t, k, at, &s.full[next.stage]);
        if (own_copies) {
          copy(a, k, at);
          device::cp_async_commit_group();
          if (under_way < lag) ++under_way;
          else device::cp_async_wait_group<lag>(), tell();
        }
        next.advance();
      }
    }
    if (own_copies) {
      device::cp_async_wait_group<0>();
      for (; under_way > 0; --under_way) tell();
    }
  }

  MOESAIC_DEVICE static void load(params const& a, product_tile const& t, int k, std::byte* at, device::mbarrier* full) {
    bool const brings_zeros = zero_bytes != 0 && a.product.w.zero_point;
    constexpr int group_bytes = scale_bytes != 0 ? scale_bytes * Problem::interval / inputs : 0;
    device::mbarrier_arrive_expect_tx(
      full, static_cast<std::uint32_t>(weight_bytes + (gathers(a) ? 0 : slot_bytes) + a.groups * (group_bytes + (brings_zeros ? rows : 0))));
    if constexpr (cluster > 1) {
      // A part of the rows to every block, so that each reads 1 / cluster of them.
      constexpr int part = rows / cluster;
      device::tma_load_3d_multicast(at + rank() * (weight_bytes / cluster), &a.weights, full, (1u << cluster) - 1, k, t.row + rank() * part, t.expert);
    } else if constexpr (layout::in_stripes(weights)) device::tma_load_3d(at, &a.weights, full, 2 * k, t.row / layout::stripe_rows, t.expert);
    else device::tma_load_3d(at, &a.weights, full, k, t.row, t.expert);
    if (!gathers(a)) {
      MOESAIC_UNROLL
      for (int b = 0; b < boxes; ++b) device::tma_load_2d(at + slots_at + b * box_bytes, &a.slots, full, k + b * box_inputs, t.first);
    }
    if constexpr (scale_bytes != 0) device::tma_load_3d(at + scales_at, &a.scales, full, t.row, k / a.product.w.group, t.expert);
    if (brings_zeros) device::tma_load_3d(at + zeros_at, &a.zeros, full, t.row, k / a.product.w.group, t.expert);
  }

  // A thread's part of the rows that are gathered: 16 bytes of every sixteenth slot, and one slot's scale.
  class copier {
   public:
    MOESAIC_DEVICE copier(params const& a, product_tile const& t) {
      if (gathers(a)) {
        MOESAIC_UNROLL
        for (int i = 0; i < passes; ++i) source_[i] = row_of(a.product, t, device::thread_id() / 8 + 16 * i);
      }
      if constexpr (scales_slots) scaled_ = row_of(a.product, t, device::thread_id());
    }
    // Zeros stand for slots beyond the tile's last and inputs beyond the row's.
    MOESAIC_DEVICE void operator()(params const& a, int k, std::byte* at) const {
      auto const& p = a.product;
      if (gathers(a)) {
        int const part = device::thread_id() % 8, row = device::thread_id() / 8;
        MOESAIC_UNROLL
        for (int b = 0; b < boxes; ++b) {
          int const input = k + b * box_inputs + part * (box_inputs / 8);
          MOESAIC_UNROLL
          for (int i = 0; i < passes; ++i) {
            if (slots % 16 != 0 && row + 16 * i >= slots) break;
            bool const there = source_[i] >= 0 && input < p.w.inputs;
            device::cp_async<16>(at + slots_at + b * box_bytes + (row + 16 * i) * 128 + (part ^ row % 8) * 16,
                                 there ? p.x + source_[i] * p.x_stride + input : p.x, there ? 16 : 0);
          }
        }
      }
      if constexpr (scales_slots) {
        if (device::thread_id() < slots)
          device::cp_async<4>(at + slot_scales_at + 4 * device::thread_id(), scaled_ >= 0 ? a.x_scales + scaled_ * a.x_scales_stride + k / inputs : a.x_scales,
                              scaled_ >= 0 ? 4 : 0);
      }
    }

   private:
    static constexpr int passes = (slots + 15) / 16;
    MOESAIC_DEVICE static int row_of(gemm_params<X, Y> const& p, product_tile const& t, int slot) {
      if (slot >= t.last - t.first) return -1;
      return p.token_of_slot != nullptr ? p.token_of_slot[t.first + slot] : t.first + slot;
    }
    int source_[passes] = {};
    int scaled_ = 0;
  };

  // ---- the consumers -----------------------------------------------------------------------------------------------------------------

  MOESAIC_DEVICE static void consume(params const& a, shared& s) {
    auto const& p = a.product;
    int const warpgroup = device::warpgroup_id() - 1;
    schedule order(p);
    ring at;
    for (;;) {
      product_tile const t = order.next();
      if (!t) return;
      float sum[n / 2];
      if constexpr (through_registers) multiply_codes(p, a.groups, t, s, at, warpgroup, sum);
      else if constexpr (scales_slots) multiply_scaled(p, t, s, at, warpgroup, sum);
      else multiply(p, s, at, warpgroup, sum);
      if constexpr (weights_on_m) sm90::store_weights_on_m<n>(p, t.expert, t.first, t.last, t.row + 64 * warpgroup, sum);
      else sm90::store_slots_on_m<n>(p, t.expert, t.first + 64 * warpgroup, t.last, t.row, sum);
    }
  }

  MOESAIC_DEVICE static void release(shared& s, int from) {
    device::warp_sync();
    if (device::lane_id() != 0) return;
    if constexpr (cluster > 1) {
      MOESAIC_UNROLL
      for (int block = 0; block < cluster; ++block) device::mbarrier_arrive_cluster(&s.empty[from], block);
    } else {
      device::mbarrier_arrive(&s.empty[from]);
    }
  }
  // 8 rows of 128 bytes after another.
  MOESAIC_DEVICE static std::uint64_t operand(std::byte const* tile) {
    return device::wgmma_descriptor(device::shared_address(tile), 16, 1024, device::swizzle::b128);
  }

  // The products of a stage with both operands in shared memory: four steps of 32 bytes.
  MOESAIC_DEVICE static void start_stage(std::byte const* at, int warpgroup, float (&d)[n / 2], bool add) {
    std::uint64_t const of_weights = operand(at + (weights_on_m ? warpgroup * 64 * 128 : 0));
    std::uint64_t const of_slots = operand(at + slots_at + (weights_on_m ? 0 : warpgroup * 64 * 128));
    device::wgmma_fence();
    MOESAIC_UNROLL
    for (unsigned i = 0; i < 4; ++i)
      device::wgmma<weights, n>(d, (weights_on_m ? of_weights : of_slots) + 2 * i, (weights_on_m ? of_slots : of_weights) + 2 * i, add || i > 0);
    device::wgmma_commit_group();
  }

  // bf16: a stage's products go on while the next stage is waited for.
  MOESAIC_DEVICE static void multiply(gemm_params<X, Y> const& p, shared& s, ring& at, int warpgroup, float (&sum)[n / 2]) {
    int before = 0;
    for (int k = 0; k < p.w.inputs; k += inputs) {
      device::mbarrier_wait(&s.full[at.stage], at.parity);
      start_stage(s.ring + at.stage * stage_bytes, warpgroup, sum, k > 0);
      if (k > 0) {
        device::wgmma_wait_group<1>();
        release(s, before);
      }
      before = at.stage;
      at.advance();
    }
    device::wgmma_wait_group<0>();
    device::wgmma_hold(sum);
    release(s, before);
  }

  // e4m3 both: a stage is the 128 inputs that a scale of a slot and one of a block of weights belong to. Its sums are scaled and added while the products
  // of the next stage go on.
  MOESAIC_DEVICE static void multiply_scaled(gemm_params<X, Y> const& p, product_tile const& t, shared& s, ring& at, int warpgroup, float (&sum)[n / 2]) {
    float part[2][n / 2];
    int const row = t.row + (weights_on_m ? 64 * warpgroup : 0);
    MOESAIC_UNROLL
    for (int i = 0; i < n / 2; ++i) sum[i] = 0.0f;
    auto const start = [&](float (&d)[n / 2]) {
      int const here = at.stage;
      device::mbarrier_wait(&s.full[here], at.parity);
      at.advance();
      start_stage(s.ring + here * stage_bytes, warpgroup, d, false);
      return here;
    };
    auto const end = [&]<int Pending>(float (&d)[n / 2], int here, int k) {
      auto const* const of_slot = reinterpret_cast<float const*>(s.ring + here * stage_bytes + slot_scales_at);
      // Of a tile's rows, all of one part lie in one block of outputs.
      float const of_part[2] = {block_scale(p, t.expert, k, row, 0), block_scale(p, t.expert, k, row, 1)};
      constexpr int mine = weights_on_m ? n / 4 : 2;
      float scale[mine];
      MOESAIC_UNROLL
      for (int i = 0; i < mine; ++i)
        scale[i] = of_slot[weights_on_m ? 8 * (i / 2) + device::lane_id() % 4 * 2 + i % 2 : 64 * warpgroup + device::warp_id() % 4 * 16 + device::lane_id() / 4 + 8 * i];
      device::wgmma_wait_group<Pending>();
      device::wgmma_hold(d);
      release(s, here);
      MOESAIC_UNROLL
      for (int i = 0; i < n / 2; ++i)
        sum[i] = device::fma(d[i], weights_on_m ? scale[i / 4 * 2 % mine + i % 2] * of_part[i / 2 % 2] : scale[i / 2 % 2] * of_part[i / 4 % 2], sum[i]);
    };
    // At the loop's head the first set of sums is under way, and there alone: the compiler must see at every wait whose registers it frees.
    int k = 0, even = start(part[0]);
    for (; k + 2 * inputs < p.w.inputs; k += 2 * inputs) {
      int const odd = start(part[1]);
      end.template operator()<1>(part[0], even, k);
      even = start(part[0]);
      end.template operator()<1>(part[1], odd, k + inputs);
    }
    if (k + inputs < p.w.inputs) {
      int const odd = start(part[1]);
      end.template operator()<1>(part[0], even, k);
      end.template operator()<0>(part[1], odd, k + inputs);
    } else {
      end.template operator()<0>(part[0], even, k);
    }
  }
  // Of a row of a part, or of both where there is one part.
  MOESAIC_DEVICE static float block_scale(gemm_params<X, Y> const& p, int expert, int k, int row, int part) {
    auto const* const scales = reinterpret_cast<float const*>(p.w.of(expert) + p.w.scales_at);
    int const blocks_of_outputs = (p.w.outputs + p.w.group - 1) / p.w.group, block = (row >> (p.w.parts - 1)) / p.w.group;
    return block < blocks_of_outputs ? scales[(k / p.w.group * p.w.parts + (part & (p.w.parts - 1))) * blocks_of_outputs + block] : 0.0f;
  }

  // Codes: while the products of 64 inputs go on, the next 64 become bf16.
  static constexpr bool promotes = weights != dtype::mxfp4;               // whose scales join the codes, exactly
  static constexpr int partials = Problem::interval == 32 && n <= 64 ? 2 : 1;

  MOESAIC_DEVICE static void multiply_codes(gemm_params<X, Y> const& p, int groups, product_tile const& t, shared& s, ring& at, int warpgroup, float (&sum)[n / 2]) {
    using stage_codes = sm90::codes<weights, Problem::interval, rows>;
    auto const codes_of = [&](ring const& r) {
      std::byte const* const here = s.ring + r.stage * stage_bytes;
      return stage_codes{here, here + scales_at, here + zeros_at, groups, p.w.zero_point};
    };
    int const row = 64 * warpgroup + device::warp_id() % 4 * 16, g = device::lane_id() / 4;
    float part[partials][n / 2];
    sm90::operand even, odd;
    if constexpr (promotes) {
      MOESAIC_UNROLL
      for (int i = 0; i < n / 2; ++i) sum[i] = 0.0f;
    }

    // Scales of rows g and g + 8, of interval i of the stage.
    auto const scales_of = [&](stage_codes const& codes, int i, int k, float (&scale)[2]) {
      if constexpr (weights == dtype::e4m3) {
        scale[0] = block_scale(p, t.expert, k, t.row + row, 0), scale[1] = block_scale(p, t.expert, k, t.row + row, 1);
      } else {
        scale[0] = codes.scale(i, row + g), scale[1] = codes.scale(i, row + g + 8);
      }
    };
    auto const promote = [&](float (&d)[n / 2], float const (&scale)[2]) {
      device::wgmma_hold(d);
      MOESAIC_UNROLL
      for (int i = 0; i < n / 2; ++i) sum[i] = device::fma(d[i], scale[i / 2 % 2], sum[i]);
    };
    auto const hold = [](sm90::operand& a) {
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) device::wgmma_hold(a[i]);
    };
    // Products of some steps of an operand.
    auto const issue = [&]<int First, int Count>(float (&d)[n / 2], sm90::operand const& a, std::uint64_t of_slots, bool add) {
      MOESAIC_UNROLL
      for (int i = First; i < First + Count; ++i)
        device::wgmma<dtype::bf16, n>(d, a[i], of_slots + 2u * static_cast<unsigned>(i), add || i > First);
      device::wgmma_commit_group();
    };
    // Products of half a stage, and what there is to do when they are there.
    auto const start = [&]<int Half>(stage_codes const& codes, sm90::operand& a, std::uint64_t of_slots, int k) {
      hold(a);
      device::wgmma_fence();
      if constexpr (!promotes) {
        issue.template operator()<0, 4>(sum, a, of_slots, k + Half > 0);
      } else if constexpr (Problem::interval != 32) {
        issue.template operator()<0, 4>(part[0], a, of_slots, Problem::interval == 128 && Half == 1);
      } else if constexpr (partials == 2) {
        issue.template operator()<0, 2>(part[0], a, of_slots, false);
        issue.template operator()<2, 2>(part[1], a, of_slots, false);
      } else {
        issue.template operator()<0, 2>(part[0], a, of_slots, false);
        float scale[2];
        scales_of(codes, 2 * Half, k, scale);
        device::wgmma_wait_group<0>();
        promote(part[0], scale);
        device::wgmma_fence();
        issue.template operator()<2, 2>(part[0], a, of_slots, false);
      }
    };
    auto const end = [&]<int Half>(stage_codes const& codes, sm90::operand& a, int k) {
      constexpr bool here = promotes && (Problem::interval != 128 || Half == 1);
      constexpr int first = Problem::interval == 128 ? 0 : Problem::interval == 64 ? Half : 2 * Half + 2 - partials;
      float scale[partials][2] = {};
      if constexpr (here) {
        MOESAIC_UNROLL
        for (int i = 0; i < partials; ++i) scales_of(codes, first + i, k, scale[i]);
      }
      device::wgmma_wait_group<0>();
      hold(a);
      if constexpr (here) {
        MOESAIC_UNROLL
        for (int i = 0; i < partials; ++i) promote(part[i], scale[i]);
      } else if constexpr (promotes) {
        device::wgmma_hold(part[0]);
      } else {
        device::wgmma_hold(sum);
      }
    };

    device::mbarrier_wait(&s.full[at.stage], at.parity);
    codes_of(at).template load<0>(even, row, p.w.inputs);
    for (int k = 0; k < p.w.inputs; k += inputs) {
      int const stage_at = at.stage;
      stage_codes const codes = codes_of(at);
      std::uint64_t const of_slots = operand(s.ring + stage_at * stage_bytes + slots_at), beyond = of_slots + (box_bytes >> 4);
      start.template operator()<0>(codes, even, of_slots, k);
      codes.template load<1>(odd, row, p.w.inputs - k);
      end.template operator()<0>(codes, even, k);
      start.template operator()<1>(codes, odd, beyond, k);
      at.advance();
      if (k + inputs < p.w.inputs) {
        device::mbarrier_wait(&s.full[at.stage], at.parity);
        codes_of(at).template load<0>(even, row, p.w.inputs - k - inputs);
      }
      end.template operator()<1>(codes, odd, k);
      release(s, stage_at);
    }
  }
};

}  // namespace moesaic::cuda
