// Token ids to rows of the embedding table, out of its packed form, a block a token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/rows.hpp>
#include <moesaic/cuda/kernel/weight.hpp>
#include <moesaic/cuda/tuning/tuning.hpp>

namespace moesaic::cuda {

/// x[t] = scale · row ids[t] of the table, rounded to T; zeros and the flag `id` for an id outside the vocabulary.
template <dtype D, class T>
struct embed_rows {
  static constexpr int threads = 128;
  static constexpr rung needs = rung::simt;
  struct params {
    weight_view table;                   // [vocabulary, hidden]
    std::int32_t const* ids;             // [tokens]
    view<T> x;                           // [tokens, hidden]
    call_flags* flags;                   // or null
    float scale = 1.0f;
  };
  struct shared {};

  MOESAIC_DEVICE void operator()(params const& p) const {
    constexpr bool plain = D == dtype::bf16 || D == dtype::fp32;
    device::griddepcontrol_launch_dependents();
    device::griddepcontrol_wait();
    for (std::int64_t t = device::block_x(); t < p.x.rows; t += device::grid_x()) {
      auto const id = p.ids[t];
      bool const known = id >= 0 && id < p.table.rows;
      if (!known && p.flags != nullptr && device::thread_id() == 0) raise_flag(&p.flags->id);
      T* const row = p.x.row(t);
      if constexpr (plain) {
        for_each_run<wide<T>, threads>(p.x.columns, [&](std::int64_t at) {   // K is a multiple of 16: rows of the table are whole runs
          float value[wide<T>] = {};
          if (known) load_run<wide<T>>(reinterpret_cast<scalar_of<D> const*>(p.table.data) + static_cast<std::int64_t>(id) * p.table.inputs, at, value);
          for (int i = 0; i < wide<T>; ++i) row[at + i] = static_cast<T>(p.scale * value[i]);
        });
      } else {
        for (int k = device::thread_id() * 4; k < p.x.columns; k += threads * 4) {
          float value[4] = {};
          if (known) weights_at<D>(p.table, p.table.data, id, k, value);
          for (int i = 0; i < 4; ++i) row[k + i] = static_cast<T>(p.scale * value[i]);
        }
      }
    }
  }
};

}  // namespace moesaic::cuda
