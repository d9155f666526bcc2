// An oracle file becomes inputs, weights and expected stages; what a tap saw becomes failures of the running test.
// SPDX-License-Identifier: Apache-2.0
#include "stages.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <utility>

#include <doctest/doctest.h>
#include <moesaic/route/balance.hpp>
#include <support/compare.hpp>

namespace moesaic::test {

oracle_weights::oracle_weights(safetensors const& file, bool rounded_to_bf16) : file_(file) {
  constexpr std::string_view prefix = "weight.";
  for (auto const& entry : file) {
    if (!entry.name.starts_with(prefix)) continue;
    auto& own = all_[entry.name.substr(prefix.size())];
    own.shape = entry.shape;
    own.values = read<float>(file, entry.name);
    if (rounded_to_bf16)
      for (auto& x : own.values) x = static_cast<float>(bf16(x));
    own.view = {dtype::fp32, own.shape, reinterpret_cast<std::byte const*>(own.values.data()),
                static_cast<std::int64_t>(own.values.size() * sizeof(float))};
  }
}

tensor const* oracle_weights::find(std::string_view name) const {
  auto const at = all_.find(name);
  if (at == all_.end()) return nullptr;
  at->second.read = true;
  return &at->second.view;
}

std::vector<std::string> oracle_weights::unread() const {
  std::vector<std::string> names;
  for (auto const& [name, own] : all_)
    if (!own.read) names.push_back(name);
  return names;
}

double cross_entropy(double const* logits, std::int64_t columns, std::int64_t label) {
  auto const largest = *std::max_element(logits, logits + columns);
  double sum = 0;
  for (std::int64_t c = 0; c < columns; ++c) sum += std::exp(logits[c] - largest);
  return std::log(sum) + largest - logits[label];
}

namespace {

/// The expected values as rows and columns of what was seen; its shape must fall into such rows and columns.
bool reshape(std::vector<std::int64_t> const& shape, matrix<double>& want, matrix<double> const& seen) {
  std::int64_t rows = 1;
  bool fits = false;
  for (std::size_t split = 0; split <= shape.size(); ++split) {
    fits = fits || (rows == seen.rows && rows * seen.columns == static_cast<std::int64_t>(want.data.size()));
    if (split < shape.size()) rows *= shape[split];
  }
  want.rows = seen.rows, want.columns = seen.columns;
  return fits;
}

/// The values of one stage of every layer.
std::vector<matrix<double>> of_layers(recording const& seen, std::string const& stage) {
  std::vector<matrix<double>> all;
  for (auto const& [name, rows] : seen)
    if (name == stage || name.ends_with("." + stage)) all.push_back(rows);
  return all;
}

/// Pooled over the layers, of the tokens that `mask` keeps.
double load_balance(recording const& seen, std::vector<std::int32_t> const& mask) {
  auto const logits = of_layers(seen, "router_logits"), chosen = of_layers(seen, "topk_index");
  std::vector<std::uint8_t> padding;
  for (auto const kept : mask) padding.push_back(kept == 0);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(logits.front().columns));
  balance::choices all{counts};
  std::vector<view<const double>> layers;
  for (std::size_t l = 0; l < logits.size(); ++l) {
    layers.push_back(logits[l].view());
    auto const ids = convert<std::int32_t>(chosen[l]);
    if (!balance::count_chosen(ids.view(), static_cast<int>(logits[l].columns), padding, all)) return std::numeric_limits<double>::quiet_NaN();
  }
  auto const loss = balance::pooled_balance<double>(layers, padding, all, 1);
  return loss.done ? loss.value : std::numeric_limits<double>::quiet_NaN();
}

/// Of a file with one layer.
double z_loss(recording const& seen) {
  auto const loss = balance::z_loss<double>(of_layers(seen, "router_logits").front().view(), {}, 1);
  return loss.done ? loss.value : std::numeric_limits<double>::quiet_NaN();
}

double next_token_loss(recording const& seen, std::vector<std::int32_t> const& ids) {
  auto const& logits = seen.at("logits");
  double sum = 0;
  for (std::size_t t = 0; t + 1 < ids.size(); ++t)
    sum += cross_entropy(&logits(static_cast<std::int64_t>(t), 0), logits.columns, ids[t + 1]);
  return sum / static_cast<double>(ids.size() - 1);
}

/// What is seen, or follows from it. Empty where neither is.
matrix<double> found(safetensors const& file, recording const& seen, std::string const& stage) {
  auto const number = [](double x) {
    matrix<double> one(1, 1);
    one.data[0] = x;
    return one;
  };
  bool const routed = !of_layers(seen, "router_logits").empty();
  if (stage == "loss" && seen.contains("logits")) return number(next_token_loss(seen, read<std::int32_t>(file, "input.ids")));
  if (stage == "load_balance" && routed) return number(load_balance(seen, {}));
  if (stage == "load_balance_masked" && routed) return number(load_balance(seen, read<std::int32_t>(file, "input.loss_mask")));
  if (stage == "z" && routed) return number(z_loss(seen));
  auto const at = seen.find(stage == "moe_out_by_slot" ? "moe_out" : stage);  // slots are summed in the accumulator, as that stage does
  return at != seen.end() ? at->second : matrix<double>{};
}

constexpr std::string_view other_formats[] = {"f32.", "bf16."};

/// Whether an expectation `stage` is one of this format; takes the format's prefix off it.
bool concerns(precision const& format, std::string& stage) {
  for (auto const other : other_formats)
    if (stage.starts_with(other)) {
      if (format.prefix != other) return false;
      stage.erase(0, other.size());
      return true;
    }
  return format.prefix != other_formats[1];
}

}  // namespace

comparisons check_stages(safetensors const& file, recording const& seen, precision const& format, stages_of which) {
  bool const summed_one_by_one = file.find("expect." + format.prefix + "moe_out_by_slot") != nullptr;  // and moe_out the other way
  auto const allowed_of = [&](std::string const& stage) {
    if (stage.find("topk_index") != std::string::npos) return 0.0;
    bool const after_sum = stage == "moe_out" || stage == "ffn_out" || stage == "block_out";
    return stage == "attn_heads" || (summed_one_by_one && after_sum) ? format.long_stages : format.stages;
  };
  comparisons made;
  std::set<std::string> expected;
  for (auto const& entry : file) {
    if (!entry.name.starts_with("expect.")) continue;
    auto stage = entry.name.substr(7);
    expected.insert(stage);
    if (!concerns(format, stage)) continue;
    INFO(entry.name << " in " << format.name);
    auto got = found(file, seen, stage);
    bool const shown = !got.data.empty();
    if (!shown && which == stages_of::those_seen) continue;
    CHECK_MESSAGE(shown, "a stage that no tap shows");
    if (!shown) continue;
    auto want = matrix<double>();
    want.data = read<double>(file, entry.name);
    if (stage == "qkv" && format.clip != 0)
      for (auto& x : want.data) x = std::clamp(x, -format.clip, format.clip);
    bool const fits = reshape(entry.shape, want, got);
    CHECK_MESSAGE(fits, "a shape that the stage seen does not have: " << got.rows << " rows of " << got.columns);
    if (!fits) continue;
    if (stage == "router_choice" && format.masked != 0) {  // the file has it before experts of other groups are masked
      std::int64_t masked = 0;
      for (std::size_t i = 0; i < got.data.size(); ++i)
        if (std::isinf(got.data[i])) got.data[i] = want.data[i], ++masked;
      CHECK(masked == got.rows * format.masked);
    }
    auto const far = compare<double, double>(got.view(), want.view());
    auto const allowed = allowed_of(stage);
    CHECK_MESSAGE(far.worst <= allowed, to_string(far));
    ++made.count;
    if (allowed > 0 && far.worst / allowed >= made.worst) made.worst = far.worst / allowed, made.worst_at = stage;
  }
  auto listed = std::istringstream(std::string(file.metadata("stages")));
  for (std::string stage; listed >> stage;)
    CHECK_MESSAGE(expected.contains(stage), "listed in the metadata, but not in the file: " << stage);
  return made;
}

recording handed_on(safetensors const& file, precision const& format, bool of_decoder) {
  recording values;
  for (auto const& entry : file) {
    auto stage = entry.name.starts_with("expect.") ? entry.name.substr(7) : std::string();
    bool const wanted = of_decoder ? stage.ends_with(".topk_index") : stage.starts_with(format.prefix);
    if (format.prefix != other_formats[1] || stage.empty() || !wanted) continue;
    concerns(format, stage);
    values[stage].data = read<double>(file, entry.name);
  }
  return values;
}

void check_same(recording const& whole, recording const& by_token) {
  for (auto const& stage : whole) {
    if (stage.first.ends_with("attn_probs")) continue;
    auto const at = by_token.find(stage.first);
    bool const same = at != by_token.end() && same_bits(stage.second.view(), at->second.view());
    CHECK_MESSAGE(same, "token by token, other bits in " << stage.first);
  }
}

void check_near(recording const& whole, recording const& by_token, double allowed) {
  for (auto const& [name, rows] : whole) {
    std::string const& stage = name;
    if (stage.ends_with("attn_probs")) continue;
    auto const at = by_token.find(stage);
    bool const alike = at != by_token.end() && at->second.rows == rows.rows && at->second.columns == rows.columns;
    CHECK_MESSAGE(alike, "token by token, another shape of " << stage);
    if (!alike) continue;
    auto ours = at->second, theirs = rows;
    for (std::size_t i = 0; i < ours.data.size(); ++i)
      if (std::isinf(ours.data[i]) && ours.data[i] == theirs.data[i]) ours.data[i] = theirs.data[i] = 0;  // masked in both
    auto const far = compare<double, double>(ours.view(), theirs.view());
    bool const near = far.worst <= (stage.ends_with("topk_index") ? 0.0 : allowed);
    CHECK_MESSAGE(near, "token by token, " << stage << ": " << to_string(far));
  }
}

}  // namespace moesaic::test

using namespace moesaic;
using namespace moesaic::test;

namespace {

std::vector<std::byte> small_file() {
  std::vector<double> const values{1, 2, 3, 4};
  std::vector<std::int64_t> const ids{1, 0};
  auto const bytes = [](auto const& from) {
    return list<const std::byte>(reinterpret_cast<std::byte const*>(from.data()), static_cast<std::int64_t>(from.size() * sizeof(from[0])));
  };
  std::string header = R"({"expect.q":{"dtype":"F64","shape":[2,2],"data_offsets":[0,32]},)"
                       R"("expect.topk_index":{"dtype":"I64","shape":[2,1],"data_offsets":[32,48]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::uint64_t const length = header.size();
  std::vector<std::byte> all;
  auto const add = [&](list<const std::byte> part) { all.insert(all.end(), part.begin(), part.end()); };
  add({reinterpret_cast<std::byte const*>(&length), sizeof length});
  add({reinterpret_cast<std::byte const*>(header.data()), static_cast<std::int64_t>(header.size())});
  add(bytes(values)), add(bytes(ids));
  return all;
}

matrix<double> rows_of(std::int64_t columns, std::vector<double> values) {
  matrix<double> m(static_cast<std::int64_t>(values.size()) / columns, columns);
  m.data = std::move(values);
  return m;
}

}  // namespace

// The comparison's own tests: each of these must be seen as a failure, and is wrapped as one that is expected.
TEST_CASE("what agrees is counted") {
  auto const bytes = small_file();
  safetensors const file(bytes);
  CHECK(check_stages(file, {{"q", rows_of(2, {1, 2, 3, 4})}, {"topk_index", rows_of(1, {1, 0})}}, precision_of<double>()).count == 2);
}
TEST_CASE("a difference beyond the tolerance fails" * doctest::should_fail()) {
  auto const bytes = small_file();
  check_stages(safetensors(bytes), {{"q", rows_of(2, {1, 2, 3, 4 + 1e-11})}, {"topk_index", rows_of(1, {1, 0})}}, precision_of<double>());
}
TEST_CASE("another expert fails, in every format" * doctest::should_fail()) {
  auto const bytes = small_file();
  check_stages(safetensors(bytes), {{"q", rows_of(2, {1, 2, 3, 4})}, {"topk_index", rows_of(1, {1, 1})}}, precision_of<float>());
}
TEST_CASE("not a number fails" * doctest::should_fail()) {
  auto const bytes = small_file();
  check_stages(safetensors(bytes),
               {{"q", rows_of(2, {1, std::numeric_limits<double>::quiet_NaN(), 3, 4})}, {"topk_index", rows_of(1, {1, 0})}},
               precision_of<double>());
}
TEST_CASE("a stage that nobody shows fails" * doctest::should_fail()) {
  auto const bytes = small_file();
  check_stages(safetensors(bytes), {{"topk_index", rows_of(1, {1, 0})}}, precision_of<double>());
}
TEST_CASE("of a piece of a layer, what it shows counts, and must agree") {
  auto const bytes = small_file();
  CHECK(check_stages(safetensors(bytes), {{"topk_index", rows_of(1, {1, 0})}}, precision_of<double>(), stages_of::those_seen).count == 1);
}
TEST_CASE("of a piece of a layer, what it shows and does not agree fails" * doctest::should_fail()) {
  auto const bytes = small_file();
  check_stages(safetensors(bytes), {{"topk_index", rows_of(1, {0, 1})}}, precision_of<double>(), stages_of::those_seen);
}
TEST_CASE("other bits token by token fail" * doctest::should_fail()) {
  check_same({{"q", rows_of(1, {1})}}, {{"q", rows_of(1, {std::nextafter(1.0, 2.0)})}});
}
