// What does a real dense model lose when it is stored in fewer bits, or cut into experts of which a token uses some? SmolLM2-135M reads
// held-out text in every form; one table answers. `bash examples/demo.sh --checkpoint smollm2` builds and runs this.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <moesaic/config/presets/llama.hpp>

#include "plot.hpp"
#include "report.hpp"
#include "smollm2/models.hpp"
#include "text.hpp"

namespace {

using namespace demo;
using moesaic::dtype;
using moesaic::format;
using smollm2::any_net;
using smollm2::window;

constexpr int vocabulary_size = moesaic::presets::smollm2_135m::config.vocabulary;
constexpr int layers = moesaic::layer_count<moesaic::presets::smollm2_135m::layers>;
constexpr int routed = smollm2::experts - smollm2::shared_experts;
constexpr int calibration_windows = 32;
constexpr double far = 4;                            // times the dense perplexity: beyond what a picture shows

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- evaluation

struct result {
  double perplexity = 0, tokens_per_second = 0;
  smollm2::choices seen;
};

/// −log of the probability that logits [vocabulary] give to one id.
double surprise(view<const float> logits, std::int64_t row, std::int32_t id) {
  auto const* const z = logits.row(row);
  auto const largest = static_cast<double>(*std::max_element(z, z + logits.columns));
  double sum = 0;
  for (std::int64_t v = 0; v < logits.columns; ++v) sum += std::exp(static_cast<double>(z[v]) - largest);
  return std::log(sum) + largest - static_cast<double>(z[id]);
}

/// ids [windows · window], each window a text of its own. `together` of them run in step: their tokens of one position are a batch, and a
/// call has as many positions as fill a window. Perplexity is that of tokens 1 .. 511.
result evaluate(host::pool& cpu, smollm2::net& net, std::vector<std::int32_t> const& ids, int together) {
  auto const windows = std::ssize(ids) / window;
  auto const positions = window / together;
  std::vector<float> logits(index(window) * index(vocabulary_size));
  auto const out = view<float>{logits.data(), window, vocabulary_size};
  std::vector<double> nats(index(window));
  std::vector<std::int32_t> read(index(window)), next(index(window)), sequence(index(window)), position(index(window));
  result r;
  r.seen.together = together;
  double seconds = 0, sum = 0;
  for (std::int64_t first = 0; first < windows; first += together) {
    net.start(together, window);
    for (int from = 0; from < window; from += positions) {
      for (std::size_t row = 0; row < index(window); ++row) {
        auto const s = sequence[row] = static_cast<std::int32_t>(row) % together;
        auto const p = position[row] = from + static_cast<std::int32_t>(row) / together;
        auto const at = (first + s) * window + p;
        read[row] = ids[index(at)];
        next[row] = p + 1 < window ? ids[index(at + 1)] : -1;
      }
      auto const started = now();
      net.forward({read, sequence, position}, moesaic::every_token, out, r.seen);
      seconds += now() - started;
      cpu.for_each(window, [&](std::int64_t row) { nats[index(row)] = next[index(row)] < 0 ? 0 : surprise(out, row, next[index(row)]); });
      for (auto const n : nats) sum += n;
    }
  }
  r.perplexity = std::exp(sum / static_cast<double>(windows * (window - 1)));
  r.tokens_per_second = static_cast<double>(windows * window) / seconds;
  return r;
}

/// The likeliest continuation of a prompt: up to `count` tokens, or to the end of the text.
std::string continuation(smollm2::net& net, vocabulary const& words, std::vector<std::int32_t> next, int count, std::vector<std::int64_t> const& ends) {
  std::vector<float> logits(index(vocabulary_size));
  smollm2::choices seen;
  net.start(1, static_cast<int>(next.size()) + count);
  std::string text;
  for (std::int32_t position = 0; count > 0; --count) {
    std::vector<std::int32_t> const sequence(next.size());
    std::vector<std::int32_t> positions;
    for (std::size_t i = 0; i < next.size(); ++i) positions.push_back(position++);
    std::int32_t const last[] = {static_cast<std::int32_t>(next.size()) - 1};
    net.forward({next, sequence, positions}, last, {logits.data(), 1, vocabulary_size}, seen);
    auto const likeliest = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (std::find(ends.begin(), ends.end(), likeliest) != ends.end()) break;
    text += words[likeliest];
    next = {likeliest};
  }
  return text;
}

// ---- the program

struct options {
  std::string folder, cache, json, plots, text = "jargon";
  int windows = 2, threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool only_carve = false;
};

std::vector<column> const columns{{"ffn_mflop", "MFLOP", "%.1f"},     {"ffn_bytes", "MB", "%.1f", 1e6}, {"active", "active", "%.4f"},
                                  {"distinct", "distinct", "%.2f"},   {"read", "read", "%.4f"},         {"perplexity", "perplex.", "%.5f"},
                                  {"relative", "x dense", "%.5f"}, {"tokens_per_second", "tokens/s", "%.0f"}};

struct expected {
  int together = 1;                                  // sequences of a step
  int k = 0;                                         // experts that every token must have used; 0 = as the rule says
};

class demonstration {
 public:
  explicit demonstration(options const& o)
      : options_(o), cpu_(o.threads), folder_(o.folder), tokens_(o.folder + "/tokens.safetensors"), words_(o.folder + "/vocabulary.safetensors"),
        windows_(demo::windows(elements<std::int32_t>(tokens_, o.text), part::evaluation, o.windows, window)) {
    if (std::ssize(windows_) != std::int64_t{o.windows} * window)
      throw moesaic::error("--windows: expected at most the " + std::to_string(std::ssize(windows_) / window) + " of " + o.text + ", found " +
                           std::to_string(o.windows));
  }

  /// Set-up: minutes, once.
  void carve() {
    progress bar(layers);
    carvings_ = smollm2::carvings(cpu_, folder_, demo::windows(elements<std::int32_t>(tokens_, "jargon"), part::calibration, calibration_windows, window),
                                  options_.cache, [&](int layer) { bar.step("carving layer " + std::to_string(layer) + " into experts"); });
  }

  void run() {
    auto const started = now();
    progress bar(8 + 16 + 6 + (options_.windows % 4 == 0 ? 3 : 0) + (options_.windows % 16 == 0 ? 6 : 0));
    bar_ = &bar;
    store();
    auto const carved_by = [&](split by) { return smollm2::carved(cpu_, folder_, carvings_[index(static_cast<int>(by))]); };
    use_experts(carved_by(split::learned));
    mix(smollm2::mixed(cpu_, folder_, carvings_.back()));
    add("random top-15", carved_by(split::random).top(15), {.k = 15});
    add("contiguous top-15", carved_by(split::contiguous).top(15), {.k = 15});
    seconds_ = now() - started;
  }

  std::vector<row> const& rows() const { return rows_; }

  void print() const {
    std::printf("\nSmolLM2-135M, %d windows of %d tokens of %s, %d threads, %.0f s. Feed-forward of all layers: MFLOP a token, MB a step.\n\n", options_.windows,
                window, options_.text.c_str(), cpu_.threads(), seconds_);
    print_header(columns, 24);
    for (auto const& r : rows_) print_row(r, columns, 24);
    for (auto const& [title, text] : texts_) std::printf("\nWhat it says, likeliest token by token, %s:%s\n", title.c_str(), text.c_str());
    conclude();
  }

  void draw(std::filesystem::path const& folder) const {
    std::filesystem::create_directories(folder);
    // Rows named `start` + label + `end`.
    auto const named = [&](std::string const& name, std::string const& field, double unit, std::string const& start, std::string const& end = "") {
      series s{name, {}};
      for (auto const& r : rows_) {
        auto const middle = r.name.size() - std::min(r.name.size(), start.size() + end.size());
        bool const fits = r.name == start + r.name.substr(std::min(start.size(), r.name.size()), middle) + end;
        if (fits && *r.find("relative") < far) s.points.push_back({*r.find(field) / unit, *r.find("relative"), r.name.substr(start.size(), middle)});
      }
      return s;
    };
    auto const save = [&](const char* file, std::string const& title, const char* x_title, std::vector<series> const& all) {
      plot((folder / file).string(), title + " (rows beyond x4 are in the table)", x_title, "perplexity, x dense", all);
    };
    save("perplexity_over_active.svg", "What skipping experts costs", "share of the feed-forward's FLOPs",
         {named("price", "active", 1, "price "), named("three widths", "active", 1, "mixed price "), named("three widths, flat price", "active", 1, "flat price "), named("top-k", "active", 1, "top-"), named("true ranking", "active", 1, "true top-"),
          named("static", "active", 1, "static "), named("random split", "active", 1, "random top-"), named("contiguous split", "active", 1, "contiguous top-")});

    series stored{"dense, by storage", {}, false};
    for (auto const& r : rows_)
      if (r.find("distinct") == nullptr && r.name.find("W8A8") == r.name.npos) stored.points.push_back({*r.find("ffn_bytes") * 1e-6, *r.find("relative"), r.name});
    save("perplexity_over_bytes.svg", "Fewer bits, or fewer experts", "MB of feed-forward weights a step",
         {stored, named("experts in fp32, by price", "ffn_bytes", 1e6, "price ")});

    if (options_.windows % 4 == 0)
      save("perplexity_over_read.svg", "What a batch has to read", "share of the feed-forward's weights that a step reads",
           {named("one sequence", "read", 1, "price "), named("4 in step", "read", 1, "prices ", " B=4"), named("16 in step", "read", 1, "prices ", " B=16"),
            named("static, any batch", "read", 1, "static ")});
  }

 private:
  void store() {
    add("fp32", smollm2::dense<dtype::fp32>(cpu_, folder_), {}, "dense, fp32");
    add("bf16", smollm2::dense<dtype::bf16>(cpu_, folder_));
    add("int8 g32", smollm2::dense<format{dtype::int8, 32}>(cpu_, folder_));
    add("int8 g128", smollm2::dense<format{dtype::int8, 128}>(cpu_, folder_));
    add("fp8 128x128", smollm2::dense<dtype::e4m3>(cpu_, folder_));
    add("fp8 128x128 W8A8", smollm2::dense_fp8_activations(cpu_, folder_));
    add("int4 g32", smollm2::dense<format{dtype::int4, 32}>(cpu_, folder_), {}, "feed-forward in int4 g32");
    add("int4 g128", smollm2::dense<format{dtype::int4, 128}>(cpu_, folder_));
  }

  void use_experts(smollm2::carved const& model) {
    for (int const k : {21, 18, 15, 12, 9}) add("top-" + std::to_string(k), model.top(k), {.k = k});
    add("price 2.5e-4", model.price(2.5e-4f));
    add("price 4e-4", model.price(4e-4f), {}, "carved into experts, price 4e-4");
    add("price 5.5e-4", model.price(5.5e-4f));
    add("price 8e-4", model.price(8e-4f));
    add("price 1e-3", model.price(1e-3f));
    for (int const k : {15, 9}) add("static " + std::to_string(k), model.fixed(k), {.k = k});
    for (int const k : {15, 9}) add("true top-" + std::to_string(k), model.true_top(k), {.k = k});

    struct pair {
      const char *compute, *read;
    };
    auto const batch = [&](int together, std::initializer_list<pair> all) {
      if (options_.windows % together != 0) return;
      for (auto const& p : all)
        add("prices " + std::string(p.compute) + " " + p.read + " B=" + std::to_string(together),
            model.prices(std::strtof(p.compute, nullptr), std::strtof(p.read, nullptr), together), {.together = together});
    };
    batch(4, {{"0", ".002"}, {"0", ".003"}, {"5.5e-4", "0"}});
    batch(16, {{"0", ".008"}, {"0", ".012"}, {"5.5e-4", "0"}, {"5.5e-4", ".002"}, {"5.5e-4", ".004"}, {"5.5e-4", ".006"}});
  }

  void mix(smollm2::mixed const& model) {
    for (auto const* const price : {"4e-4", "5.5e-4", "1e-3"}) {
      add(std::string("mixed price ") + price, model.price(std::strtof(price, nullptr)));
      add(std::string("flat price ") + price, model.flat_price(std::strtof(price, nullptr)));
    }
  }

  /// A row, measured; and what the model says to the prompts, under `title`.
  void add(std::string const& name, any_net const& net, expected const& e = {}, std::string const& title = {}) {
    bar_->step(name);
    auto const r = evaluate(cpu_, *net, windows_, e.together);
    auto const c = net->cost();
    auto const mean = [](double sum, double of) { return of > 0 ? sum / of : 0; };
    double chosen = 0, distinct = 0, flops = c.flops, bytes = c.bytes, all_flops = c.flops, all_bytes = c.bytes;
    for (std::size_t i = 0; i < c.expert_flops.size(); ++i) {
      auto const share = mean(r.seen.chosen[i], r.seen.tokens), read = mean(r.seen.read[i], r.seen.steps);
      chosen += r.seen.chosen[i], distinct += read;
      flops += share * c.expert_flops[i], bytes += read * c.expert_bytes[i];
      all_flops += c.expert_flops[i], all_bytes += c.expert_bytes[i];
    }
    if (e.k > 0 && chosen != e.k * r.seen.tokens)
      throw moesaic::error(name + ": expected " + std::to_string(e.k) + " experts a token, counted " + std::to_string(mean(chosen, r.seen.tokens)));
    if (rows_.empty()) dense_ = c, dense_perplexity_ = r.perplexity;
    if (all_flops != dense_.flops)
      throw moesaic::error(name + ": all experts together must cost what the dense feed-forward does");

    row made{"smollm2", name, {{"perplexity", r.perplexity}, {"relative", r.perplexity / dense_perplexity_}}, {{"text", options_.text}}};
    made.figures.insert(made.figures.end(), {{"active", flops / dense_.flops}, {"read", bytes / all_bytes}});
    if (!c.expert_flops.empty()) made.figures.emplace_back("distinct", distinct);
    made.figures.insert(made.figures.end(), {{"ffn_mflop", flops * 1e-6}, {"ffn_bytes", bytes}, {"tokens_per_second", r.tokens_per_second},
                                           {"windows", options_.windows}});
    rows_.push_back(std::move(made));
    if (!title.empty()) say(title, *net);
  }

  void say(std::string const& title, smollm2::net& net) {
    auto& text = texts_.emplace_back(title, "").second;
    for (auto const& [name, length] : {std::pair{"prompt.0", 2}, {"prompt.1", 40}}) {
      auto const prompt = elements<std::int32_t>(tokens_, name);
      std::string said;
      for (auto const id : prompt) said += words_[id];
      said += "[" + continuation(net, words_, prompt, length, folder_.generation().eos) + "]";
      text += "\n  ";
      for (char const c : said) text += c == '\n' ? "\n  " : std::string(1, c);
    }
  }

  double figure(std::string const& name, std::string const& field) const {
    auto const found = std::find_if(rows_.begin(), rows_.end(), [&](row const& r) { return r.name == name; });
    return found == rows_.end() ? 0 : *found->find(field);
  }
  void conclude() const {
    auto const x = [&](std::string const& name) { return figure(name, "relative"); };
    auto const percent = [&](std::string const& name, std::string const& field) { return 100 * figure(name, field); };
    std::printf("\nOne block runs both: the dense model and, with all %d experts on, the carved one give the same perplexity (x %.6f).\n", routed, x("top-21"));
    std::printf("One price across tokens and layers beats a fixed number of experts: %.1f %% of the feed-forward by price costs x %.3f, %.1f %% by top-15 x %.3f.\n",
                percent("price 5.5e-4", "active"), x("price 5.5e-4"), percent("top-15", "active"), x("top-15"));
    std::printf("What carving and routing are worth: the same share costs x %.3f when always the same experts run, x %.3f and x %.3f when neurons are dealt at\n"
                "random or as they lie, and x %.3f would be the price of top-15 with a router that knows the truth.\n",
                x("static 15"), x("random top-15"), x("contiguous top-15"), x("true top-15"));
    std::printf("Cost belongs in the price: of experts of three widths %.1f %% by price and width cost x %.3f, %.1f %% by a price that ignores width x %.3f.\n",
                percent("mixed price 5.5e-4", "active"), x("mixed price 5.5e-4"), percent("flat price 5.5e-4", "active"), x("flat price 5.5e-4"));
    if (auto const one = figure("price 5.5e-4", "read"), sixteen = figure("prices 5.5e-4 0 B=16", "read"); sixteen > 0)
      std::printf("A batch erodes sparsity: one sequence reads %.1f %% of the weights at this price, a step of 16 reads %.1f %%; with a price for reading %.1f %%, at x %.3f.\n",
                  100 * one, 100 * sixteen, percent("prices 5.5e-4 .004 B=16", "read"), x("prices 5.5e-4 .004 B=16"));
    std::printf("The floor: skipping %.0f %% of the feed-forward costs x %.3f, while int8 halves the bytes of bf16 for x %.4f. For this small dense model\n"
                "precision is the cheaper saving; it has little to spare.\n\n",
                100 - percent("price 2.5e-4", "active"), x("price 2.5e-4"), x("int8 g32"));
  }

  options options_;
  host::pool cpu_;
  moesaic::checkpoint folder_;
  moesaic::safetensors tokens_;
  vocabulary words_;
  std::vector<std::int32_t> windows_;
  std::vector<carved_model> carvings_;               // [split], then of three widths
  progress* bar_ = nullptr;                          // of the run
  smollm2::ffn_cost dense_;
  double dense_perplexity_ = 0, seconds_ = 0;
  std::vector<row> rows_;
  std::vector<std::pair<std::string, std::string>> texts_;
};

constexpr const char* usage =
    "usage: demo_checkpoint --folder FOLDER --cache FOLDER [--windows N] [--text NAME] [--threads N] [--json FILE] [--plots FOLDER] [--only carve]\n"
    "  --folder   what prepare_smollm2.py made\n"
    "  --cache    keeps carvings\n"
    "  --windows  of 512 tokens (2); batches from a multiple of 4 on\n"
    "  --text     jargon, or devref, which the experts have not been carved by\n"
    "  --only     carve: fill the cache, run nothing\n";

}  // namespace

int main(int count, char** arguments) {
  options o;
  for (int i = 1; i < count; i += 2) {
    std::string const option = arguments[i], value = i + 1 < count ? arguments[i + 1] : "";
    if (value.empty()) return std::fputs(usage, stderr), 2;
    if (option == "--folder") o.folder = value;
    else if (option == "--cache") o.cache = value;
    else if (option == "--windows") o.windows = std::atoi(value.c_str());
    else if (option == "--text") o.text = value;
    else if (option == "--threads") o.threads = std::atoi(value.c_str());
    else if (option == "--json") o.json = value;
    else if (option == "--plots") o.plots = value;
    else if (option == "--only" && value == "carve") o.only_carve = true;
    else return std::fputs(usage, stderr), 2;
  }
  if (o.folder.empty() || o.cache.empty() || o.windows < 1 || o.threads < 1) return std::fputs(usage, stderr), 2;
  try {
    demonstration show(o);
    show.carve();
    if (o.only_carve) return 0;
    show.run();
    show.print();
    if (!o.json.empty()) write_json(o.json, show.rows());
    if (!o.plots.empty()) {
      show.draw(o.plots);
      std::printf("Pictures: %s/perplexity_over_*.svg\n", o.plots.c_str());
    }
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
