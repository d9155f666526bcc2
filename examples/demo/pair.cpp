// What does a mixture of experts buy, and what does it cost? Two small decoders trained alike, one dense, one with experts of the same
// active width, read held-out text of four kinds; one table answers. `bash examples/demo.sh` builds and runs this.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <moesaic/cost/bytes.hpp>
#include <moesaic/cost/flops.hpp>
#include <moesaic/cost/parameters.hpp>
#include <moesaic/io/huggingface.hpp>
#include <moesaic/moesaic.hpp>

#include "pair_dense.hpp"   // pair::dense and pair::moe, written by cmake/config_from_hf.py from the folders' config.json
#include "pair_moe.hpp"
#include "mxfp4_toward_zero.hpp"
#include "plot.hpp"
#include "report.hpp"

namespace {

using moesaic::block_config;
using moesaic::dtype;

constexpr int length = 256;                        // bytes predicted in a window; the window has one more
constexpr int together = 16;                       // sequences that step through time side by side
constexpr int trained_k = moesaic::first_spec<pair::moe::layers>::config.router.top_k;
constexpr int experts = moesaic::first_spec<pair::moe::layers>::config.router.experts;

// ---- the same models with another storage, or another k. Weights depend on neither k nor policy.

template <dtype Ffn>
struct stored_as {
  template <class Spec>
  struct change : Spec {
    static constexpr block_config config = [] {
      auto c = Spec::config;
      c.storage.ffn = Ffn;
      return c;
    }();
  };
};
template <int K>
struct choosing {
  template <class Spec>
  struct change : Spec {
    static constexpr block_config config = [] {
      auto c = Spec::config;
      if (c.router.experts > 0) c.router.top_k = K;
      return c;
    }();
  };
};
template <class Policy>
struct routed_by {
  template <class Spec>
  struct change : Spec {
    using routing = Policy;
  };
};
template <class Model, template <class> class Change>
struct changed : Model {
  using layers = moesaic::change_layers_t<typename Model::layers, Change>;
};

// ---- policies of the demo's own; those over a batch are the library's

/// Of the plain k those whose combine weight exceeds a price; the best always.
struct above_price : moesaic::routing::standard {
  struct state {
    float price = 0;
  };
  template <class T>
  MOESAIC_FN static int cut(moesaic::router_config const&, state const& s, std::int64_t, T const* scores, T const*, std::int32_t const* ids, int found) {
    T sum = T(0);
    for (int i = 0; i < found; ++i) sum += scores[ids[i]];
    int count = 1;
    while (count < found && scores[ids[count]] / sum > static_cast<T>(s.price)) ++count;
    return count;
  }
};
/// Experts of index 16 and more lie in slow memory, which costs a price in log score.
using tiers = moesaic::routing::cost_aware<moesaic::costs::table, moesaic::routing::standard, moesaic::priced::logit>;
constexpr auto slow_experts = [] {
  std::array<float, static_cast<std::size_t>(experts)> cost{};
  for (std::size_t e = 16; e < cost.size(); ++e) cost[e] = 1;
  return cost;
}();

// ---- text

struct text_kind {
  std::string name;
  std::vector<std::uint8_t> bytes;
};

std::vector<text_kind> read_text(std::filesystem::path const& folder) {
  std::vector<std::string> names{"scripture", "glossary", "dictionary", "source"};
  if (!std::filesystem::exists(folder / (names.front() + ".txt"))) {
    names.clear();
    for (auto const& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".txt") names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
  }
  std::vector<text_kind> kinds;
  for (auto const& name : names) {
    std::ifstream file(folder / (name + ".txt"), std::ios::binary);
    if (!file) throw moesaic::error((folder / (name + ".txt")).string() + ": expected a text file, found none");
    kinds.push_back({name, {std::istreambuf_iterator<char>(file), {}}});
  }
  if (kinds.empty()) throw moesaic::error(folder.string() + ": expected text files, found none");
  return kinds;
}

using window = std::vector<std::int32_t>;          // length + 1 bytes

/// `count` windows of each of the kinds, the kinds in turn, so that a batch mixes them as a server would.
std::vector<window> windows_of(std::vector<text_kind> const& kinds, int count) {
  std::vector<window> all;
  for (int i = 0; i < count; ++i)
    for (auto const& kind : kinds) {
      auto const first = static_cast<std::size_t>(i) * (length + 1);
      if (first + length + 1 > kind.bytes.size())
        throw moesaic::error(kind.name + ".txt: expected " + std::to_string(count) + " windows of 257 bytes, found room for " + std::to_string(i));
      auto const at = kind.bytes.begin() + static_cast<std::ptrdiff_t>(first);
      all.emplace_back(at, at + length + 1);
    }
  return all;
}

// ---- evaluation

struct result {
  double bits = 0;                                 // a byte
  double distinct = 0;                             // experts that the batch's tokens of one step use, mean over steps and layers
  double mass = 0;                                 // of the plain rule's gate weight, the share that the chosen experts keep
  double per_token = 0;                            // experts
  double tokens_per_second = 0;
  std::vector<double> load;                        // [layers · experts] share of the tokens' choices
};

/// Watches the routers of one batch: token t of sequence s is row s · of_sequence + t · of_time.
struct router_watch {
  static constexpr bool wants(moesaic::stage s) { return s == moesaic::stage::topk_index || s == moesaic::stage::router_scores; }

  result& sum;
  std::int64_t of_sequence = length, of_time = 1;
  moesaic::view<const float> scores = {};

  template <class X>
  void operator()(moesaic::tap_point at, moesaic::view<const X> values) {
    if constexpr (std::is_same_v<X, float>) {
      if (at.stage == moesaic::stage::router_scores) scores = values;
    } else if constexpr (std::is_same_v<X, std::int32_t>) {
      if (at.stage == moesaic::stage::topk_index) count(at.layer, values);
    }
  }

  void count(int layer, moesaic::view<const std::int32_t> ids) {
    auto const tokens = ids.rows, sequences = tokens / length;
    sum.load.resize(std::max(sum.load.size(), static_cast<std::size_t>((layer + 1) * experts)));
    std::vector<float> sorted(experts);
    double mass = 0, used = 0, distinct = 0;
    for (std::int64_t t = 0; t < length; ++t) {
      std::vector<bool> read(experts);
      for (std::int64_t s = 0; s < sequences; ++s) {
        auto const row = s * of_sequence + t * of_time;
        double kept = 0, plain = 0;
        for (std::int64_t i = 0; i < ids.columns; ++i) {
          auto const e = ids(row, i);
          if (e < 0) break;
          kept += static_cast<double>(scores(row, e));
          used += 1;
          distinct += !read[static_cast<std::size_t>(e)];
          read[static_cast<std::size_t>(e)] = true;
          sum.load[static_cast<std::size_t>(layer * experts + e)] += 1;
        }
        std::copy_n(scores.row(row), experts, sorted.begin());
        std::partial_sort(sorted.begin(), sorted.begin() + trained_k, sorted.end(), std::greater<>{});
        for (int i = 0; i < trained_k; ++i) plain += static_cast<double>(sorted[static_cast<std::size_t>(i)]);
        mass += kept / plain;
      }
    }
    auto const rows = static_cast<double>(tokens);
    sum.mass += mass / rows, sum.per_token += used / rows, sum.distinct += distinct / length;
  }
};

/// A policy that looks at a whole step gets its tokens side by side, the others those of each sequence, which attention likes better.
template <class Model, class State>
result evaluate(moesaic::host::pool& cpu, moesaic::decoder_weights const& weights, std::vector<window> const& windows, State state) {
  using net = moesaic::decoder<Model>;
  constexpr bool by_step = requires { state.together; };
  result sum;
  double seconds = 0, nats = 0;
  int batches = 0;
  for (std::size_t first = 0; first < windows.size(); first += together, ++batches) {
    auto const sequences = static_cast<int>(std::min<std::size_t>(together, windows.size() - first));
    auto const tokens = std::int64_t{sequences} * length;
    std::vector<std::int32_t> ids, sequence, position;
    router_watch watch{sum, by_step ? 1 : length, by_step ? sequences : 1};
    if constexpr (by_step) state.together = sequences;
    for (std::int64_t row = 0; row < tokens; ++row) {
      auto const s = by_step ? row % sequences : row / length, t = by_step ? row / sequences : row % length;
      ids.push_back(windows[first + static_cast<std::size_t>(s)][static_cast<std::size_t>(t)]);
      sequence.push_back(static_cast<std::int32_t>(s));
      position.push_back(static_cast<std::int32_t>(t));
    }
    auto const caches = net::make_cache(cpu, sequences, length);
    moesaic::host::buffer workspace{net::template workspace_bytes<router_watch>(tokens, tokens)};
    std::vector<float> logits(static_cast<std::size_t>(tokens * net::config.vocabulary));
    moesaic::view<float> const out{logits.data(), tokens, net::config.vocabulary};

    auto const started = std::chrono::steady_clock::now();
    auto const done = net::forward(cpu, weights, {ids, sequence, position}, caches, moesaic::every_token, out, workspace, state, watch);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (!done) throw moesaic::error(to_string(done));

    double batch_nats = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const* const row = out.row(t);
      double const largest = static_cast<double>(*std::max_element(row, row + out.columns));
      double partition = 0;
      for (std::int64_t c = 0; c < out.columns; ++c) partition += std::exp(static_cast<double>(row[c]) - largest);
      auto const next = windows[first + static_cast<std::size_t>(sequence[static_cast<std::size_t>(t)])][static_cast<std::size_t>(position[static_cast<std::size_t>(t)]) + 1];
      batch_nats += std::log(partition) + largest - static_cast<double>(row[next]);
    }
    nats += batch_nats / static_cast<double>(tokens);
  }
  auto const visits = static_cast<double>(batches) * net::layers;
  sum.bits = nats / batches / std::log(2.0);
  sum.distinct /= visits, sum.mass /= visits, sum.per_token /= visits;
  sum.tokens_per_second = static_cast<double>(windows.size()) * length / seconds;
  return sum;
}

/// A row of the report: what was measured, beside what the configuration says it costs.
template <class Model>
demo::row row_of(std::string name, result const& r) {
  constexpr auto weights = moesaic::weight_bytes<Model>();
  constexpr auto first = moesaic::weight_bytes<moesaic::first_spec<typename Model::layers>>();
  demo::row row{"pair", std::move(name), {{"bits", r.bits}}};
  if (r.per_token > 0) {
    row.figures.insert(row.figures.end(), {{"distinct", r.distinct}, {"mass", r.mass}, {"per_token", r.per_token}});
    auto const saved = (static_cast<double>(first.experts) - r.distinct) * static_cast<double>(first.expert) * moesaic::decoder<Model>::layers;
    row.figures.emplace_back("step_bytes", static_cast<double>(weights.total()) - saved);
  } else {
    row.figures.emplace_back("step_bytes", static_cast<double>(weights.total()));
  }
  row.figures.insert(row.figures.end(), {{"parameters", static_cast<double>(moesaic::parameters<Model>().total())},
                                         {"active_parameters", static_cast<double>(moesaic::parameters<Model>().active())},
                                         {"flops", static_cast<double>(moesaic::flops<Model>(length / 2).total())},
                                         {"weight_bytes", static_cast<double>(weights.active())},
                                         {"tokens_per_second", r.tokens_per_second}});
  return row;
}

// ---- the program

std::vector<demo::column> const columns{{"parameters", "params", "%.2f M", 1e6}, {"active_parameters", "active", "%.2f M", 1e6},
                                        {"flops", "MFLOP/tok", "%.2f", 1e6},        {"weight_bytes", "MB/token", "%.2f", 1e6},
                                        {"step_bytes", "MB/step", "%.2f", 1e6},     {"distinct", "distinct", "%.2f"},
                                        {"mass", "gate mass", "%.3f"},             {"bits", "bits/byte", "%.5f"},
                                        {"tokens_per_second", "tokens/s", "%.0f"}};

std::vector<demo::column> const priced_columns{{"step_bytes", "MB/step", "%.2f", 1e6}, {"distinct", "distinct", "%.2f"},   {"distinct_change", "change", "%+.1f %%"},
                                               {"per_token", "a token", "%.2f"},       {"mass", "gate mass", "%.3f"},      {"bits", "bits/byte", "%.5f"},
                                               {"bits_change", "change", "%+.2f %%"}};

class demonstration {
 public:
  demonstration(std::filesystem::path const& folder, int windows_a_kind, int threads)
      : cpu_(threads), dense_folder_((folder / "dense").string()), moe_folder_((folder / "moe").string()), kinds_(read_text(folder / "text")),
        windows_(windows_of(kinds_, windows_a_kind)), bar_(2 + 5 + 32 + 10 + 2 * static_cast<int>(kinds_.size())) {}

  void run() {
    auto const dense = moesaic::load<pair::dense>(cpu_, dense_folder_);
    auto const moe = moesaic::load<pair::moe>(cpu_, moe_folder_);
    add<pair::dense>("dense", dense);
    add<pair::moe>("moe", moe);
    choose<1, 2, 3, 6, 8>(moe);
    price_experts(moe);
    store<dtype::e4m3>("fp8 128x128");
    store<dtype::int8>("int8 g32");
    store<dtype::int4>("int4 g32");
    store<dtype::mxfp4>("mxfp4", [](moesaic::checkpoint const& folder) { return demo::mxfp4_toward_zero(folder); });
    store<dtype::mxfp4>("mxfp4 ties-to-even");
    for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
      std::vector<window> own;
      for (std::size_t i = kind; i < windows_.size(); i += kinds_.size()) own.push_back(windows_[i]);
      add<pair::dense>("dense on " + kinds_[kind].name, dense, own);
      loads_.push_back(add<pair::moe>("moe on " + kinds_[kind].name, moe, own).load);
    }
  }

  std::vector<demo::row> const& rows() const { return rows_; }

  void print() const {
    std::printf("\nTwo decoders, %s trained alike; %zu windows of held-out text, %d threads. Cost of a token at %d keys; a step decodes %d sequences.\n\n",
                "dense and mixture of experts,", windows_.size(), cpu_.threads(), length / 2, together);
    std::printf("MB/token: weights that one token uses; MB/step: that the %d tokens of a step use together, distinct of %d experts in each layer; gate mass: share of the\n"
                "plain top-%d rule's weight that the chosen experts keep. tokens/s of one run on this machine as it is now.\n\n", together, experts, trained_k);
    demo::print_header(columns, 26);
    for (auto const& r : rows_)
      if (r.find("bits_change") == nullptr) demo::print_row(r, columns, 26);
    std::printf("\nThe mixture with a price on its experts: what a step of %d sequences reads, and what that costs, against the plain rule. Threshold and tiers look at one\n"
                "token at a time (tiers: experts 16 to 31 in slow memory), the others at the whole step.\n\n",
                together);
    demo::print_header(priced_columns, 30);
    for (auto const& r : rows_)
      if (r.find("bits_change") != nullptr) demo::print_row(r, priced_columns, 30);
    std::printf("\nWhich experts serve which text: share of a layer's choices, dark = many (also as SVG)\n");
    constexpr const char* shades[] = {" ", "░", "▒", "▓", "█"};
    for (std::size_t kind = 0; kind < loads_.size(); ++kind)
      for (int layer = 0; layer < moesaic::decoder<pair::moe>::layers; ++layer) {
        std::printf("  %-12s layer %d  ", layer == 0 ? kinds_[kind].name.c_str() : "", layer);
        auto const row = shares(kind, layer);
        for (double const share : row) std::printf("%s", shades[std::min(4, static_cast<int>(share * experts * 2))]);
        std::printf("\n");
      }
    conclude();
  }

  void draw(std::filesystem::path const& folder) const {
    std::filesystem::create_directories(folder);
    std::vector<std::string> names;
    std::vector<std::vector<double>> values;
    for (int layer = 0; layer < moesaic::decoder<pair::moe>::layers; ++layer)
      for (std::size_t kind = 0; kind < loads_.size(); ++kind) {
        names.push_back("layer " + std::to_string(layer) + "  " + kinds_[kind].name);
        values.push_back(shares(kind, layer));
      }
    demo::heat_map((folder / "experts.svg").string(), "Which experts serve which text: share of a layer's choices", names, values, kinds_.size());

    auto const named = [&](std::string const& field, std::string const& prefix, std::string const& plain, bool formats) {
      demo::series s{prefix, {}};
      for (auto const& r : rows_) {
        if (r.find("bits_change") != nullptr) continue;
        bool const beside = r.name.find(" on ") != std::string::npos || r.name.find("ties") != std::string::npos, chooses = r.name.find("k=") != std::string::npos;
        if (beside || r.name.rfind(plain, 0) != 0 || (r.name != plain && chooses == formats)) continue;
        s.points.push_back({*r.find(field) * 1e-6, *r.find("bits"), r.name == plain ? plain : r.name.substr(plain.size() + 1)});
      }
      std::sort(s.points.begin(), s.points.end(), [](auto const& a, auto const& b) { return a.x < b.x; });
      return s;
    };
    demo::plot((folder / "bits_over_flops.svg").string(), "Bits a byte over compute", "MFLOP a token", "bits a byte",
               {named("flops", "mixture, k experts", "moe", false), {"dense", named("flops", "", "dense", false).points, false}});
    demo::plot((folder / "bits_over_bytes.svg").string(), "Bits a byte over weights read in a step of 16 sequences", "MB a step", "bits a byte",
               {named("step_bytes", "mixture, by storage", "moe", true), named("step_bytes", "dense, by storage", "dense", true)});

    // One line a rule, from the plain one on; its settings, and what lies far above the others, stand in the table.
    std::vector<demo::series> rules;
    for (auto const* const rule : {"two-phase", "marginal", "cap", "two prices", "elimination", "elimination, 3 rounds", "threshold", "tiers", "k ="}) {
      demo::series s{rule, {{figure("moe", "distinct"), figure("moe", "bits")}}};
      std::string const rounds = " rounds=3", name = rule, begin = name.substr(0, name.find(','));
      for (auto const& r : rows_) {
        bool const in_rounds = r.name.size() > rounds.size() && r.name.compare(r.name.size() - rounds.size(), rounds.size(), rounds) == 0;
        bool const fewer = name == "k =" && (r.name == "moe k=2" || r.name == "moe k=3");
        bool const mine = r.find("bits_change") != nullptr && r.name.rfind(begin + " ", 0) == 0 && in_rounds == (name != begin);
        if ((fewer || mine) && *r.find("bits") < 1.04 * figure("moe", "bits")) s.points.push_back({*r.find("distinct"), *r.find("bits")});
      }
      if (name == "k =") s.name = "fewer experts a token";
      std::sort(s.points.begin(), s.points.end(), [](auto const& a, auto const& b) { return a.x < b.x; });
      rules.push_back(std::move(s));
    }
    demo::plot((folder / "bits_over_experts.svg").string(), "Bits a byte over the experts that a step of 16 sequences reads", "distinct experts a layer, of " + std::to_string(experts),
               "bits a byte", rules);
  }

 private:
  template <class Model, class State = moesaic::no_states>
  result const& add(std::string const& name, moesaic::decoder_weights const& weights, std::vector<window> const& windows, State const& state = {}) {
    bar_.step(name);
    last_ = evaluate<Model>(cpu_, weights, windows, state);
    rows_.push_back(row_of<Model>(name, last_));
    return last_;
  }
  template <class Model>
  void add(std::string const& name, moesaic::decoder_weights const& weights) {
    add<Model>(name, weights, windows_);
  }
  /// A row for each of a policy's settings.
  template <class Policy, class Set>
  void price(std::string const& name, moesaic::decoder_weights const& weights, std::vector<const char*> const& settings, Set const& set) {
    for (auto const* const setting : settings) {
      typename Policy::state state;
      set(state, static_cast<float>(std::atof(setting)));
      auto const end = name.find('*');                     // where the setting stands, if not at the end
      add<changed<pair::moe, routed_by<Policy>::template change>>(name.substr(0, end) + setting + (end == std::string::npos ? "" : name.substr(end + 1)), weights,
                                                                  windows_, state);
      auto& row = rows_.back();
      for (auto const* const field : {"bits", "distinct"}) row.figures.emplace_back(std::string(field) + "_change", 100 * (*row.find(field) / figure("moe", field) - 1));
    }
  }
  /// What depends on the other tokens of a step, or on where experts lie.
  void price_experts(moesaic::decoder_weights const& moe) {
    using namespace moesaic::routing;
    price<two_phase<>>("two-phase own=", moe, {"1", "2", "3"}, [](auto& s, float own) { s.own = static_cast<int>(own); });
    price<marginal<>>("marginal price=", moe, {"0.25", "0.5", "1.0", "2.0"}, [](auto& s, float p) { s.price = p; });
    price<cap<>>("cap experts=", moe, {"12", "16", "20", "24"}, [](auto& s, float most) { s.experts = static_cast<int>(most); });
    price<two_prices_refilled<>>("two prices read=", moe, {"0.1", "0.15", "0.2", "0.3"}, [](auto& s, float p) { s.read = p; });
    price<elimination<>>("elimination price=", moe, {"0.05", "0.1", "0.15", "0.2", "0.3"}, [](auto& s, float p) { s.price = p; });
    price<elimination<>>("elimination price=* rounds=3", moe, {"0.05", "0.1", "0.15", "0.2", "0.3"}, [](auto& s, float p) { s.price = p, s.rounds = 3; });
    price<above_price>("threshold price=", moe, {"0.05", "0.1", "0.15"}, [](auto& s, float p) { s.price = p; });
    price<tiers>("tiers price=", moe, {"0.25", "0.5", "1.0", "2.0"},
                 [](auto& s, float p) { s.price = p, s.cost = moesaic::costs::table::of_experts(slow_experts); });
  }
  template <int... Ks>
  void choose(moesaic::decoder_weights const& weights) {
    auto const one = [&]<int K>() {
      if constexpr (K <= experts && K != trained_k)
        add<changed<pair::moe, choosing<K>::template change>>("moe k=" + std::to_string(K), weights);
    };
    (one.template operator()<Ks>(), ...);
  }
  /// Both models with their feed-forward in another format, quantised while loading; `through` may change the weights on the way.
  template <dtype Ffn, class Through>
  void store(std::string const& name, Through const& through) {
    using dense = changed<pair::dense, stored_as<Ffn>::template change>;
    using moe = changed<pair::moe, stored_as<Ffn>::template change>;
    auto const dense_weights = moesaic::decoder<dense>::load(cpu_, through(dense_folder_));
    add<dense>("dense " + name, dense_weights);
    auto const moe_weights = moesaic::decoder<moe>::load(cpu_, through(moe_folder_));
    add<moe>("moe " + name, moe_weights);
  }
  template <dtype Ffn>
  void store(std::string const& name) {
    store<Ffn>(name, [](moesaic::checkpoint const& folder) -> moesaic::checkpoint const& { return folder; });
  }

  /// Share of a layer's choices that each expert got from one kind of text.
  std::vector<double> shares(std::size_t kind, int layer) const {
    auto const first = loads_[kind].begin() + layer * experts;
    std::vector<double> row(first, first + experts);
    double sum = 0;
    for (auto const v : row) sum += v;
    for (auto& v : row) v /= sum;
    return row;
  }

  double figure(std::string const& name, std::string const& field) const {
    for (auto const& r : rows_)
      if (r.name == name) return *r.find(field);
    return 0;
  }
  void conclude() const {
    auto const better = 1 - figure("moe", "bits") / figure("dense", "bits");
    std::printf("\nWhat it buys: at %.2f and %.2f MFLOP a token, %.1f %% %s bits a byte than the dense model (%.4f and %.4f).\n", figure("moe", "flops") * 1e-6,
                figure("dense", "flops") * 1e-6, 100 * std::abs(better), better >= 0 ? "fewer" : "more", figure("moe", "bits"), figure("dense", "bits"));
    std::printf("What it costs: %.1f times the parameters in memory, and a step of %d sequences reads %.1f of %d experts a layer: %.1f times the bytes.\n",
                figure("moe", "parameters") / figure("dense", "parameters"), together, figure("moe", "distinct"), experts,
                figure("moe", "step_bytes") / figure("dense", "step_bytes"));
    std::printf("What a rule over the step saves: elimination at a price of 0.1 reads %.1f %% fewer experts for %.2f %% more bits, in 3 rounds %.1f %% for %.2f %%.\n",
                -figure("elimination price=0.1", "distinct_change"), figure("elimination price=0.1", "bits_change"),
                -figure("elimination price=0.1 rounds=3", "distinct_change"), figure("elimination price=0.1 rounds=3", "bits_change"));
    std::printf("What is cheap: experts in int4 read %.2f MB a step, for %.2f %% more bits.\n\n", figure("moe int4 g32", "step_bytes") * 1e-6,
                100 * (figure("moe int4 g32", "bits") / figure("moe", "bits") - 1));
  }

  moesaic::host::pool cpu_;
  moesaic::checkpoint dense_folder_, moe_folder_;
  std::vector<text_kind> kinds_;
  std::vector<window> windows_;
  demo::progress bar_;
  std::vector<demo::row> rows_;
  std::vector<std::vector<double>> loads_;         // [kinds], of the plain mixture
  result last_;
};

constexpr const char* usage =
    "usage: demo_pair --pair FOLDER [--windows N] [--threads N] [--json FILE] [--plots FOLDER]\n"
    "  --pair     a folder with dense/, moe/ (HuggingFace folders) and text/\n"
    "  --windows  windows of each kind of text, a multiple of 4 so that batches of 16 are full (16)\n";

}  // namespace

int main(int count, char** arguments) {
  std::string folder, json, plots;
  int windows = 16, threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 1; i < count; i += 2) {
    std::string const option = arguments[i];
    auto const wrong = [&](std::string const& sentence) { return std::fprintf(stderr, "%s: %s\n%s", option.c_str(), sentence.c_str(), usage), 2; };
    if (i + 1 == count) return wrong("expected a value, found none");
    std::string const value = arguments[i + 1];
    if (option == "--pair") folder = value;
    else if (option == "--windows") windows = std::atoi(value.c_str());
    else if (option == "--threads") threads = std::atoi(value.c_str());
    else if (option == "--json") json = value;
    else if (option == "--plots") plots = value;
    else return wrong("no such option");
    if (option == "--windows" && (windows < 1 || windows % 4 != 0)) return wrong("expected a multiple of 4, found " + value);
    if (option == "--threads" && threads < 1) return wrong("expected at least 1, found " + value);
  }
  if (folder.empty()) return std::fputs(usage, stderr), 2;
  for (auto const& file : {json, plots.empty() ? plots : plots + "/"})                       // before the work, not after it
    if (auto const into = std::filesystem::path(file).parent_path(); !into.empty() && !std::filesystem::is_directory(into)) {
      std::error_code failed;
      if (file != json) std::filesystem::create_directories(into, failed);
      if (file == json || failed) return std::fprintf(stderr, "%s: there is no such folder\n", into.string().c_str()), 2;
    }
  try {
    std::vector<demo::row> rows;
    {
      demonstration show(folder, windows, threads);
      show.run();
      show.print();
      if (!plots.empty()) show.draw(plots);
      rows = show.rows();
    }
    if (!json.empty()) demo::write_json(json, rows);
    if (!plots.empty()) std::printf("Pictures: %s/{experts,bits_over_flops,bits_over_bytes,bits_over_experts}.svg\n", plots.c_str());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
