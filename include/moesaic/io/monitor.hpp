// Monitors of routers become text: a table to read, and JSON, which `cmake/draw_monitor.py` turns into a picture.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <moesaic/layer/monitor.hpp>
#include <moesaic/route/monitor.hpp>

namespace moesaic {

/// A router among others: which layer it belongs to, and what was counted.
struct named_monitor {
  int layer = 0;
  router_monitor monitor;
};

/// Those of a model, without its dense layers.
template <class Layers>
std::vector<named_monitor> routers_of(layer_monitors<Layers> const& from) {
  std::vector<named_monitor> all;
  for (int i = 0; i < layer_monitors<Layers>::layers; ++i)
    if (from[i].shape.experts > 0) all.push_back({i, from[i]});
  return all;
}

namespace monitor_text {

/// One figure of a summary: its key in JSON, its title in a table, how it is printed there, and its value.
struct figure {
  const char* key;
  const char* title;
  int decimals;
  double (*of)(monitor_summary const&);
};
inline constexpr figure of_load[] = {
    {"max_violation", "MaxVio", 3, [](monitor_summary const& s) { return s.load.max_violation; }},
    {"step_violation", "a step", 3, [](monitor_summary const& s) { return s.step_violation; }},
    {"largest_step_violation", "worst", 3, [](monitor_summary const& s) { return s.largest_step_violation; }},
    {"min_violation", "MinVio", 3, [](monitor_summary const& s) { return s.load.min_violation; }},
    {"variation", "CV", 3, [](monitor_summary const& s) { return s.load.variation; }},
    {"gini", "Gini", 3, [](monitor_summary const& s) { return s.gini; }},
    {"load_entropy", "H(f)/lnE", 3, [](monitor_summary const& s) { return s.load.entropy; }},
    {"effective_experts", "effective", 1, [](monitor_summary const& s) { return s.load.effective_experts; }},
    {"dead_experts", "dead", 0, [](monitor_summary const& s) { return static_cast<double>(s.load.dead); }},
    {"balance", "E sum fP", 3, [](monitor_summary const& s) { return s.balance; }},
};
inline constexpr figure of_router[] = {
    {"experts_a_token", "k", 2, [](monitor_summary const& s) { return s.experts_a_token; }},
    {"drop_rate", "drops", 3, [](monitor_summary const& s) { return s.drop_rate; }},
    {"confidence", "max p", 3, [](monitor_summary const& s) { return s.confidence; }},
    {"chosen_probability", "chosen p", 3, [](monitor_summary const& s) { return s.chosen_probability; }},
    {"margin", "margin", 3, [](monitor_summary const& s) { return s.margin; }},
    {"router_entropy", "H(p)", 3, [](monitor_summary const& s) { return s.router_entropy; }},
    {"log_partition", "lse", 2, [](monitor_summary const& s) { return s.log_partition; }},
    {"largest_logit", "max |z|", 2, [](monitor_summary const& s) { return s.largest_logit; }},
    {"bias_spread", "bias", 3, [](monitor_summary const& s) { return s.bias_spread; }},
    {"stability", "Jaccard", 3, [](monitor_summary const& s) { return s.stability; }},
};

inline std::string number(double x) {   // not printf: a locale may write a comma
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, x).ptr};
}
inline std::string quoted(std::string const& words) {
  std::string out = "\"";
  for (char const c : words) {
    char escape[8];
    std::snprintf(escape, sizeof escape, c == '"' || c == '\\' ? "\\%c" : static_cast<unsigned char>(c) < 0x20 ? "\\u%04x" : "%c", c);
    out += escape;
  }
  return out + '"';
}
/// [of(0), …, of(count − 1)]
template <class Of>
std::string list_of(int count, Of&& of) {
  std::string out;
  for (int i = 0; i < count; ++i) out += (i > 0 ? ", " : "") + of(i);
  return "[" + out + "]";
}
inline std::string domain_name(std::vector<std::string> const& names, int d) {
  return d < static_cast<int>(names.size()) ? names[static_cast<std::size_t>(d)] : std::to_string(d);
}

}  // namespace monitor_text

/// The metrics of route/monitor.hpp, a line a layer: first the load (`a step` and `worst` are MaxVio of single steps, mean and largest),
/// then the router (`bias` is its spread, `Jaccard` the stability), then, where there are domains, how far each one's load is from that of all.
inline std::string to_table(std::vector<named_monitor> const& routers, std::vector<std::string> const& domains = {}) {
  std::string out;
  char cell[64];
  auto const print = [&](const char* form, auto... what) {
    std::snprintf(cell, sizeof cell, form, what...);
    out += cell;
  };
  auto const table = [&](auto const& figures) {
    print("%5s %7s %9s", "layer", "experts", "tokens");
    for (auto const& f : figures) print(" %9s", f.title);
    for (auto const& [layer, m] : routers) {
      auto const s = summarize(m);
      print("\n%5d %7d %9lld", layer, m.shape.experts, static_cast<long long>(m.totals[0].tokens));
      for (auto const& f : figures) print(" %9.*f", f.decimals, f.of(s));
    }
    out += "\n\n";
  };
  table(monitor_text::of_load);
  table(monitor_text::of_router);
  int most = 0;
  for (auto const& r : routers) most = r.monitor.shape.domains > most ? r.monitor.shape.domains : most;
  if (most > 0) {
    print("KL(f_domain || f) in nats\n%5s", "layer");
    for (int d = 0; d < most; ++d) print(" %14.14s", monitor_text::domain_name(domains, d).c_str());
    for (auto const& [layer, m] : routers) {
      print("\n%5d", layer);
      for (int d = 0; d < m.shape.domains; ++d) print(" %14.4f", specialisation(m, d));
    }
    out += "\n\n";
  }
  for (auto const& [layer, m] : routers)
    if (auto const n = m.totals[0].not_finite; n > 0)
      out += "layer " + std::to_string(layer) + ": " + std::to_string(n) + " tokens had logits that are not finite\n";
  return out;
}

/// {"layer", "experts", "tokens", "padding", "not_finite", "steps", "choices", the keys of monitor_text, "counts": [experts],
///  "probability": [experts] mean p, "domains": [{"name", "specialisation", "counts": [experts]}],
///  "together": [[lower expert, higher expert, tokens], …] of the pairs that were chosen together}
inline std::string to_json(int layer, router_monitor const& m, std::vector<std::string> const& domains = {}) {
  using namespace monitor_text;
  auto const& t = m.totals[0];
  auto const s = summarize(m);
  std::string out = "{\"layer\": " + std::to_string(layer);
  auto const add = [&](const char* key, std::string const& value) { out += ", \"" + std::string(key) + "\": " + value; };
  add("experts", std::to_string(m.shape.experts));
  add("tokens", std::to_string(t.tokens));
  add("padding", std::to_string(t.padding));
  add("not_finite", std::to_string(t.not_finite));
  add("steps", std::to_string(t.steps));
  add("choices", std::to_string(s.load.choices));
  for (auto const& f : of_load) add(f.key, number(f.of(s)));
  for (auto const& f : of_router) add(f.key, number(f.of(s)));
  add("counts", list_of(m.shape.experts, [&](int e) { return std::to_string(m.count(e)); }));
  auto const tokens = static_cast<double>(t.with_scores > 0 ? t.with_scores : 1);
  add("probability", list_of(m.shape.experts, [&](int e) { return number(m.probability[e] / tokens); }));
  add("domains", list_of(m.shape.domains, [&](int d) {
        return "{\"name\": " + quoted(domain_name(domains, d)) + ", \"specialisation\": " + number(specialisation(m, d)) +
               ", \"counts\": " + list_of(m.shape.experts, [&](int e) { return std::to_string(m.domain_counts(d, e)); }) + "}";
      }));
  std::string pairs;
  for (std::int64_t a = 0; a < m.coactivation.rows; ++a)
    for (std::int64_t b = a + 1; b < m.coactivation.columns; ++b)
      if (auto const n = m.coactivation(a, b); n > 0)
        pairs += (pairs.empty() ? "[" : ", [") + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(n) + "]";
  add("together", "[" + pairs + "]");
  return out + "}";
}

/// {"layers": [a layer, …]}
inline std::string to_json(std::vector<named_monitor> const& routers, std::vector<std::string> const& domains = {}) {
  std::string out;
  for (auto const& r : routers) out += (out.empty() ? "\n" : ",\n") + to_json(r.layer, r.monitor, domains);
  return "{\"layers\": [" + out + "\n]}\n";
}

}  // namespace moesaic
