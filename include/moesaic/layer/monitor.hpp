// A list of layers -> a monitor of each layer's router, fed by a tap while the layers run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/arena.hpp>
#include <moesaic/base/math.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/config/layers.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/spec.hpp>
#include <moesaic/config/weights.hpp>
#include <moesaic/layer/router.hpp>
#include <moesaic/layer/tap.hpp>
#include <moesaic/route/monitor.hpp>

namespace moesaic {

struct monitor_options {
  int domains = 0;                    ///< as of monitor_shape
  bool coactivation = false;
  std::int64_t compared_rows = 0;     ///< a call of up to so many rows is compared with the call before, row by row, if that had as many
  collapse_limits limits = {};
};

/// What the routers do not say about a call. Empty = no padding, no domains.
struct monitored_call {
  list<const std::uint8_t> padding = {};   ///< [tokens] 1 = a row that is no token
  list<const std::int32_t> domain = {};    ///< [tokens] kind of text, −1 = none
};

/// Monitors of all layers of a model (`layer_monitors<typename Model::layers>`) or of one layer (`layer_monitors<layers<Spec>>`):
///   host::buffer memory{layer_monitors<L>::bytes()};
///   layer_monitors<L> monitors{memory};
///   model::forward(cpu, weights, tokens, caches, rows, logits, workspace, states, monitors.tap());      // each call is a step
/// A tap changes no result. Monitors belong to one call at a time.
template <class Layers>
class layer_monitors {
 public:
  static constexpr int layers = layer_count<Layers>;
  using sum = accumulator<scalar_of<shapes(validated<first_spec<Layers>>::config).activations>>;

  static constexpr std::size_t bytes(monitor_options const& options = {}) {
    arena counting;
    layer_monitors carved;
    carved.carve(counting, options);
    return counting.used() + arena::alignment;
  }
  /// Begins with nothing seen. Throws `error` where memory is smaller than bytes(options).
  explicit layer_monitors(list<std::byte> memory, monitor_options const& options = {}) {
    arena over(memory.data, static_cast<std::size_t>(memory.size));
    carve(over, options);
    if (!over.fits())
      throw_error({"layer_monitors: expected ", bytes(options), " bytes of memory, found ", memory.size});
    clear();
  }

  void clear() {
    done_ = {};
    for (auto& one : each_) {
      if (!one.routes()) continue;
      moesaic::clear(one.monitor);
      moesaic::clear(one.detector);
      one.seen_rows = 0;
    }
  }

  /// Of a layer; shape.experts is 0 where it is dense.
  router_monitor const& operator[](int layer) const { return each_[layer].monitor; }
  collapse_detector const& detector(int layer) const { return each_[layer].detector; }
  /// The first layer whose router has collapsed, or −1.
  int collapsed() const {
    for (int i = 0; i < layers; ++i)
      if (each_[i].routes() && each_[i].detector.collapsed()) return i;
    return -1;
  }
  /// The first thing that could not be counted, such as padding of another length than a call.
  status counted() const { return done_; }

  /// Adds what the monitors of another replica or thread saw; detectors stay apart. Errors: other options.
  status merge(layer_monitors const& from) {
    for (int i = 0; i < layers; ++i)
      if (each_[i].routes())
        if (auto done = moesaic::merge(each_[i].monitor, from.each_[i].monitor); !done) return done;
    return {};
  }

  /// The selection biases of a model's layers, now.
  void observe_biases(list<const block_weights> weights) {
    for (int i = 0; i < layers && i < weights.size; ++i)
      if (each_[i].routes()) observe_bias(each_[i].monitor, weights[i].ffn.router.score_bias);
  }

  class call_tap {
   public:
    static constexpr bool reads = true;
    static constexpr bool wants(stage s) {
      return s == stage::router_logits || s == stage::router_scores || s == stage::topk_index || s == stage::topk_count;
    }
    template <class X>
    void operator()(tap_point at, view<const X> values) {
      if constexpr (std::is_same_v<X, sum>) {
        if (at.stage == stage::router_logits) seen_.logits = owner_->of_experts(at.layer, values);
        if (at.stage == stage::router_scores) seen_.scores = values;
      } else if constexpr (std::is_same_v<X, std::int32_t>) {
        if (at.stage == stage::topk_index) seen_.ids = values;
        if (at.stage == stage::topk_count) {
          seen_.count = {values.data, values.rows};
          owner_->step(at.layer, seen_);
        }
      }
    }

   private:
    friend layer_monitors;
    layer_monitors* owner_;
    router_observation<sum> seen_;
    call_tap(layer_monitors* owner, monitored_call const& call)
        : owner_(owner), seen_{.ids = {}, .padding = call.padding, .domain = call.domain} {}
  };
  /// To be passed to one call, whose views it holds.
  call_tap tap(monitored_call const& call = {}) { return {this, call}; }

 private:
  struct one_layer {
    router_monitor monitor;
    collapse_detector detector;
    view<std::int32_t> previous;      // [compared_rows, slots] of the last call, the first seen_rows of them
    std::int64_t seen_rows = 0;
    int outputs = 0;                  // columns of router_logits
    bool routes() const { return monitor.shape.experts > 0; }
  };
  one_layer each_[layers > 0 ? layers : 1] = {};
  status done_ = {};

  constexpr layer_monitors() = default;

  constexpr void carve(arena& memory, monitor_options const& options) {
    for_each_layer<Layers>([&]<class Spec>(int layer) {
      constexpr auto c = validated<Spec>::config.router;
      if constexpr (c.experts > 0) {
        each_[layer].monitor = router_monitor::carve(memory, monitor_shape{c.experts, probabilities_of(c), options.domains, options.coactivation});
        each_[layer].detector = collapse_detector::carve(memory, options.limits, c.experts);
        each_[layer].previous = memory.take<std::int32_t>(options.compared_rows, router<Spec>::slots);
        each_[layer].outputs = router<Spec>::shape.router_outputs;
      }
    });
  }

  /// Router logits without those of a group gate, which stand behind the experts'.
  view<const sum> of_experts(int layer, view<const sum> logits) const {
    auto const& one = each_[layer];
    if (logits.columns == one.outputs) logits.columns = one.monitor.shape.experts;
    return logits;
  }

  void step(int layer, router_observation<sum> seen) {
    auto& one = each_[layer];
    auto const rows = seen.ids.rows;
    bool const keeps = rows > 0 && rows <= one.previous.rows;
    if (keeps && rows == one.seen_rows) seen.previous_ids = {one.previous.data, rows, one.previous.columns};
    if (auto done = observe(one.monitor, seen, &one.detector); !done && done_) done_ = done;
    one.seen_rows = keeps ? rows : 0;
    for (std::int64_t t = 0; t < one.seen_rows; ++t)
      for (std::int64_t i = 0; i < one.previous.columns; ++i) one.previous(t, i) = seen.ids(t, i);
  }
};

}  // namespace moesaic
