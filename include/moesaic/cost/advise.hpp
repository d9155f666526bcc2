// A configuration, a device and a workload into advice: does it fit, what holds a step up, would a dense model do better?
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/cost/roofline.hpp>
#include <moesaic/cost/savings.hpp>

namespace moesaic {

/// Tokens after which a fraction of the experts has been read, by even routing: ln(1 − fraction) / ln(1 − k/E).
constexpr double rows_that_read(router_config const& router, double fraction) {
  if (router.experts == 0 || router.top_k >= router.experts) return 1;
  auto const rows = constant_math::log(1 - fraction) / constant_math::log(1 - static_cast<double>(router.top_k) / router.experts);
  return rows > 1 ? rows : 1;
}

/// The layer as a dense one of the mixture's width: `active`, what a token uses by even routing, or all of it. Of a dense layer: itself.
constexpr block_config dense_twin(block_config c, bool active) {
  auto const shape = shapes(c);
  int width = 0;
  for (auto const& run : shape.widths) width += run.experts * run.intermediate;
  c.expert = {.intermediate = (active ? width / shape.experts * shape.slots + width % shape.experts * shape.slots / shape.experts : width) +
                              shape.shared_intermediate,
              .activation = c.expert.activation,
              .bias = c.expert.bias};
  c.router = {};
  c.shared = {};
  return c;
}

/// Rows that a kernel computes for each that it has, when an expert's rows fill tiles of so many.
constexpr double tile_padding(double rows, int tile) {
  if (rows <= 0) return 1;
  auto const tiles = static_cast<std::int64_t>(rows / tile);
  return static_cast<double>(tiles + (static_cast<double>(tiles) * tile < rows ? 1 : 0)) * tile / rows;
}

/// Seconds that the mixture's feed-forward saves over a dense layer's in a call of so many tokens, before any cost of routing beyond the
/// router's matrix: what scoring, sorting and scattering may take together. Negative where it is slower. `tile`: rows that expert kernels
/// work on at once.
constexpr double saved_seconds(machine const& d, block_config const& dense, block_config const& mixture, std::int64_t rows, int tile = 1) {
  auto const call = workload{.sequences = rows, .tokens = 1, .keys = 0};
  auto const ffn = [](layer_time const& t) { return t.router.seconds + t.experts.seconds + t.shared.seconds; };
  auto t = roofline(d, mixture, call);
  auto const used = distinct_experts(mixture.router, rows);
  auto const of_one = used > 0 ? static_cast<double>(rows) * mixture.router.top_k / used : 0;
  auto const computing = t.experts.computing * tile_padding(of_one, tile);
  t.experts.seconds = t.experts.reading > computing ? t.experts.reading : computing;
  return ffn(roofline(d, dense, call)) - ffn(t);
}

/// The fewest tokens in a call from which on (to 16 M) the mixture is faster, where what routing costs beside its matrix is `overhead`
/// seconds a layer: launches and latencies that do not shrink with the model, so that a tiny one never gains. 0 = from no number on.
constexpr std::int64_t break_even_rows(machine const& d, block_config const& dense, block_config const& mixture, double overhead,
                                       int tile = 1) {
  auto const pays = [&](std::int64_t rows) { return saved_seconds(d, dense, mixture, rows, tile) > overhead; };
  std::int64_t high = 1ll << 24;
  if (!pays(high)) return 0;
  while (high > 1 && pays(high / 2)) high /= 2;
  for (auto low = high / 2; high - low > 1;) {
    auto const middle = low + (high - low) / 2;
    (pays(middle) ? high : low) = middle;
  }
  return high;
}

/// One configuration on one device, in short. Times are rooflines: bounds from below.
struct advice {
  double parameters = 0, active_parameters = 0;
  double weight_bytes = 0, cache_bytes = 0;           ///< the latter of all sequences
  bool fits = true;                                   ///< both into the device's memory

  double seconds = 0, tokens_a_second = 0;            ///< of one step
  double bytes = 0, flops = 0;
  const char* longest = "";                           ///< the operator that takes most of it,
  bool bound_by_memory = true;                        ///< and what holds that one up

  double distinct = 1, experts = 1;                   ///< of the first layer with a router: experts read in this step, and all
  double router_share = 0;                            ///< of the FLOPs of a token, attention's router too
  double rows_that_read_all = 1;                      ///< tokens a step that read 99 % of the experts,
  double compute_bound_rows = 0;                      ///< and those from which the experts are bound by arithmetic

  double dense_of_active = 0, dense_of_all = 0;       ///< seconds of the step in a dense model of the active width, and of all

  moesaic::savings savings = {};                      ///< in training, after as many tokens as were named: an extrapolation
};

namespace detail {

constexpr block_config const& first_mixture(list<const block_config> layers) {
  for (auto const& layer : layers)
    if (layer.router.experts > 0) return layer;
  return layers[0];
}

// What a layer and a decoder have alike. `time` answers the roofline of the same model with other layers.
template <class Time>
constexpr void advise_on_step(advice& a, machine const& d, list<const block_config> layers, workload const& w, roof const& total,
                              layer_time const& by_operator, roof const& head, Time time) {
  a.cache_bytes = static_cast<double>(w.sequences * w.keys * moesaic::cache_bytes(layers));
  a.fits = d.capacity == 0 || a.weight_bytes + a.cache_bytes <= d.capacity;
  a.seconds = total.seconds;
  a.tokens_a_second = static_cast<double>(w.rows()) / total.seconds;
  a.bytes = total.bytes;
  a.flops = total.flops;
  double most = -1;
  auto const compare = [&](const char* name, roof const& r) {
    if (r.seconds <= most) return;
    most = r.seconds;
    a.longest = name;
    a.bound_by_memory = r.bound_by_memory();
  };
  by_operator.for_each(compare);
  compare("head", head);

  auto const& mixture = first_mixture(layers);
  a.experts = shapes(mixture).experts;
  a.distinct = a.experts > 1 && w.distinct > 0 ? w.distinct : distinct_experts(mixture.router, w.rows());
  a.rows_that_read_all = rows_that_read(mixture.router, 0.99);
  a.compute_bound_rows = moesaic::compute_bound_rows(d, mixture);
  a.router_share = (by_operator.router.flops + by_operator.attention_router.flops) / total.flops;
  a.dense_of_active = time(true);
  a.dense_of_all = time(false);
}

}  // namespace detail

/// Of one layer: `constexpr auto a = advise<my_layer>(devices::h200, decoding(16, 4096));`.
template <block_spec Spec>
constexpr advice advise(machine const& d, workload const& w) {
  auto const& c = validated<Spec>::config;
  auto const count = parameters(c);
  advice a;
  a.parameters = static_cast<double>(count.total());
  a.active_parameters = static_cast<double>(count.active());
  a.weight_bytes = static_cast<double>(weight_bytes(c).total());
  auto const t = roofline(d, c, w);
  auto const dense = [&](bool active) { return roofline(d, dense_twin(c, active), w).total().seconds; };
  detail::advise_on_step(a, d, {&c, 1}, w, t.total(), t, {}, dense);
  return a;
}
/// Of a decoder. With `training_tokens`, what a scaling law says of its training as well.
template <decoder_spec Model>
constexpr advice advise(machine const& d, workload const& w, double training_tokens = 0) {
  constexpr auto& c = validated<Model>::config;
  list<const block_config> const layers = layer_configs<Model>;
  auto const count = parameters(c, layers);
  advice a;
  a.parameters = static_cast<double>(count.total());
  a.active_parameters = static_cast<double>(count.active());
  a.weight_bytes = static_cast<double>(weight_bytes(c, layers).total());
  auto const t = roofline(d, c, layers, w);
  detail::advise_on_step(a, d, layers, w, t.total(), t.layers, t.head, [&](bool active) {
    auto twins = layer_configs<Model>;
    for (auto& layer : twins) layer = dense_twin(layer, active);
    return roofline(d, c, list<const block_config>(twins), w).total().seconds;
  });
  if (training_tokens > 0) a.savings = saved_training<Model>(training_tokens);
  return a;
}

}  // namespace moesaic
