// Lays out a PTX program's memory, and runs its threads.
// SPDX-License-Identifier: Apache-2.0
#include "ptx.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "decode.hpp"

namespace moesaic::device_model::ptx {
namespace {

constexpr std::uint64_t align_up(std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; }

std::string demangled(char const* name) {
  int failed = 0;
  std::unique_ptr<char, void (*)(void*)> const text(abi::__cxa_demangle(name, nullptr, nullptr, &failed), std::free);
  return failed == 0 ? text.get() : name;
}
std::string without_spaces(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  return text;
}

decoder::table all_rules() {
  decoder::table rules;
  add_arithmetic(rules), add_conversions(rules), add_memory(rules), add_control(rules), add_hardware(rules), add_matrix(rules);
  return rules;
}

constexpr std::size_t frame_align = 64;
struct aligned_free {
  void operator()(std::byte* p) const { std::free(p); }
};
using memory = std::unique_ptr<std::byte[], aligned_free>;
memory allocate(std::size_t bytes) {
  return memory(static_cast<std::byte*>(std::aligned_alloc(frame_align, align_up(std::max<std::size_t>(bytes, 1), frame_align))));
}

}  // namespace

void fail(state const& t, char const* kind, std::string const& what) { internal::fail(kind, what, place_of(t)); }

struct program::parts {
  text read;
  std::vector<memory> globals;
  std::vector<std::byte*> global_at;     ///< by variable
  std::vector<std::uint64_t> shared_at;
  std::uint64_t shared_bytes = 0;        ///< of static variables
  std::vector<std::unique_ptr<code>> codes;
  std::vector<code const*> functions;
  std::vector<std::string> names;        ///< demangled
  std::vector<bool> ran;
  std::uint64_t executed = 0;

  void lay_out_variables();
  std::uint64_t stack_of(std::size_t function, int depth);
  status launch(std::size_t kernel, cuda::grid const& blocks, int threads, std::size_t dynamic_shared, void const* params,
                std::size_t params_bytes, std::uint64_t limit);
  std::string where(op const& o) const;
};

namespace {

/// One launch: what its threads share.
struct call {
  program::parts* of = nullptr;
  code const* kernel = nullptr;
  std::byte const* params = nullptr;
  std::uint64_t static_shared = 0, limit = 0;
  std::vector<memory> frames;
  std::vector<std::byte*> unused;
};
thread_local call* running = nullptr;

void interpret(state& t) {
  while (t.next != nullptr) {
    op const& o = *t.next++;
    if (--t.left == 0) fail(t, "hang", "a thread does not come to an end: it has executed as many instructions as it may, and is at {1}");
    if (((t.get<std::uint32_t>(o.guard) ^ o.unless) & 1) != 0) o.run(t, o);
  }
}

}  // namespace

void program::parts::lay_out_variables() {
  for (auto const& v : read.variables) {
    globals.push_back(v.of == space::global ? allocate(v.bytes) : nullptr);
    global_at.push_back(globals.back().get());
    shared_at.push_back(0);
    if (v.of == space::shared && !v.open) {
      shared_at.back() = align_up(shared_bytes, static_cast<std::uint64_t>(v.align));
      shared_bytes = shared_at.back() + v.bytes;
    }
  }
  for (std::size_t i = 0; i < read.variables.size(); ++i) {
    auto const& v = read.variables[i];
    if (v.of != space::global) continue;
    std::memset(global_at[i], 0, v.bytes);
    for (std::size_t e = 0; e < v.values.size(); ++e)
      std::memcpy(global_at[i] + e * static_cast<std::size_t>(v.element_bytes), &v.values[e], static_cast<std::size_t>(v.element_bytes));
    for (auto const& [e, named] : v.addresses) {
      auto const& name = named;                            // clang 14 captures no binding
      auto const other = std::find_if(read.variables.begin(), read.variables.end(), [&](variable const& o) { return o.name == name; });
      if (other == read.variables.end() || v.element_bytes != 8) throw error("PTX: an address of " + std::string(name) + " as a value");
      auto const address =
          reinterpret_cast<std::uint64_t>(global_at[static_cast<std::size_t>(other - read.variables.begin())]) + v.values[e];
      std::memcpy(global_at[i] + e * 8, &address, 8);
    }
  }
}
std::uint64_t program::parts::stack_of(std::size_t function, int depth) {
  if (depth > state::deepest) throw error("PTX: functions that call each other too deeply");
  auto const& c = *codes[function];
  std::uint64_t above = 0;
  for (auto const f : c.calls) above = std::max(above, stack_of(f, depth + 1));
  return c.frame_bytes + above;
}

std::string program::parts::where(op const& o) const {
  auto at = o.where;
  auto const file = [&](int l) -> std::string_view {
    auto const index = static_cast<std::size_t>(read.locations[static_cast<std::size_t>(l)].file);
    return index < read.files.size() ? read.files[index] : std::string_view{};
  };
  auto const seam = [&](int l) {
    return file(l).find("/moesaic/device/") != std::string_view::npos || file(l).find("/targets/") != std::string_view::npos;
  };
  while (at >= 0 && seam(at) && read.locations[static_cast<std::size_t>(at)].inlined_at >= 0)
    at = read.locations[static_cast<std::size_t>(at)].inlined_at;
  if (at < 0) return "PTX line " + std::to_string(o.line);
  auto const path = file(at);
  return std::string(path.substr(path.rfind('/') + 1)) + ":" + std::to_string(read.locations[static_cast<std::size_t>(at)].line);
}

status program::parts::launch(std::size_t kernel, cuda::grid const& blocks, int threads, std::size_t dynamic_shared, void const* params,
                              std::size_t params_bytes, std::uint64_t limit) {
  auto const& c = *codes[kernel];
  if (c.parameter_bytes != params_bytes)
    return invalid("the kernel's parameters have another size in PTX: both compilers must lay them out alike",
                   static_cast<std::int64_t>(params_bytes), static_cast<std::int64_t>(c.parameter_bytes));
  auto const& compiled = read.functions[kernel];
  if (compiled.most_threads != 0 && threads > compiled.most_threads)
    return invalid("the kernel's PTX is compiled for fewer threads a block", compiled.most_threads, threads);
  auto const copy = allocate(params_bytes);
  std::memcpy(copy.get(), params, params_bytes);
  call now;
  now.of = this, now.kernel = &c, now.params = copy.get(), now.limit = limit;
  now.static_shared = internal::window_start + (shared_bytes == 0 ? dynamic_shared : align_up(dynamic_shared, 128));
  running = &now;
  ran[kernel] = true;
  static constexpr internal::place_source places{
      [] {
        auto const* const t = internal::self();
        return t != nullptr && t->ptx != nullptr ? reinterpret_cast<std::uint64_t>(&static_cast<state const*>(t->ptx)->current()) : 0;
      },
      [](std::uint64_t at) { return at == 0 ? std::string("an unknown place") : running->of->where(*reinterpret_cast<op const*>(at)); }};
  internal::use_places(&places);
  auto const body = [](void const* p) {
    auto& of = *const_cast<call*>(static_cast<call const*>(p));
    if (of.unused.empty()) {
      of.frames.push_back(allocate(of.kernel->stack_bytes));
      of.unused.push_back(of.frames.back().get());
    }
    auto* const frame = of.unused.back();
    of.unused.pop_back();
    state t;
    t.functions = of.of->functions.data();
    t.thread = internal::self();
    t.parameters = of.params;
    t.static_shared = of.static_shared;
    t.left = of.limit;
    t.enter(*of.kernel, frame);
    t.thread->ptx = &t;
    interpret(t);
    t.thread->ptx = nullptr;
    of.of->executed += of.limit - t.left;
    of.unused.push_back(frame);
  };
  auto const total_shared = now.static_shared - internal::window_start + shared_bytes;
  auto const done = device_model::run(blocks, threads, total_shared, body, &now, names[kernel].c_str(), compiled.least_blocks);
  internal::use_places(nullptr);
  running = nullptr;
  return done;
}

program::program(std::string source) : parts_(std::make_unique<parts>()) {
  static decoder::table const rules = all_rules();
  auto& p = *parts_;
  p.read = parse(std::move(source));
  p.lay_out_variables();
  for (std::size_t f = 0; f < p.read.functions.size(); ++f) {
    p.codes.push_back(std::make_unique<code>());
    p.functions.push_back(p.codes.back().get());
    p.names.push_back(demangled(std::string(p.read.functions[f].name).c_str()));
    if (p.read.functions[f].defined) decoder(p.read, p.global_at, p.shared_at, f, *p.codes.back()).run(rules);
  }
  p.ran.resize(p.codes.size());
  for (std::size_t f = 0; f < p.codes.size(); ++f)
    if (p.read.functions[f].is_kernel) p.codes[f]->stack_bytes = p.stack_of(f, 0);
}
program::~program() = default;

bool program::has_run(std::string const& functor) const {
  for (std::size_t f = 0; f < parts_->names.size(); ++f) {
    if (!parts_->ran[f]) continue;
    auto const& name = parts_->names[f];
    auto const from = name.find("entry<");
    if (from == std::string::npos) continue;
    auto const to = name.find_first_of("<>", from + 6);
    auto const last = name.rfind("::", to) + 2;
    if (name.substr(last, to - last) == functor) return true;
  }
  return false;
}
bool program::has_run_with(std::string const& type) const {
  auto const inside_word = [](std::string const& name, std::size_t at) {
    return at < name.size() && (std::isalnum(static_cast<unsigned char>(name[at])) != 0 || name[at] == '_');
  };
  for (std::size_t f = 0; f < parts_->names.size(); ++f) {
    if (!parts_->ran[f]) continue;
    auto const& name = parts_->names[f];
    for (auto at = name.find(type); at != std::string::npos; at = name.find(type, at + 1))
      if (!inside_word(name, at - 1) && !inside_word(name, at + type.size())) return true;
  }
  return false;
}

std::uint64_t program::executed() const { return parts_->executed; }

std::vector<std::string> program::kernels() const {
  std::vector<std::string> result;
  for (std::size_t f = 0; f < parts_->names.size(); ++f)
    if (parts_->read.functions[f].is_kernel) result.push_back(parts_->names[f]);
  return result;
}

status program::run(std::type_info const& kernel, cuda::grid const& blocks, int threads, std::size_t shared_bytes, void const* params,
                    std::size_t params_bytes) {
  auto const wanted = "voidmoesaic::cuda::entry<" + without_spaces(demangled(kernel.name())) + ">(";
  for (std::size_t f = 0; f < parts_->names.size(); ++f)
    if (parts_->read.functions[f].is_kernel && without_spaces(parts_->names[f]).starts_with(wanted))
      return parts_->launch(f, blocks, threads, shared_bytes, params, params_bytes, most_instructions);
  throw error("the PTX has no entry of " + demangled(kernel.name()));
}
status program::run(std::string const& kernel, cuda::grid const& blocks, int threads, std::size_t shared_bytes, void const* params,
                    std::size_t params_bytes) {
  for (std::size_t f = 0; f < parts_->names.size(); ++f)
    if (parts_->read.functions[f].is_kernel && (parts_->names[f] == kernel || parts_->read.functions[f].name == kernel))
      return parts_->launch(f, blocks, threads, shared_bytes, params, params_bytes, most_instructions);
  throw error("the PTX has no entry " + kernel);
}

std::string read_file(std::string const& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw error("cannot read " + path);
  std::ostringstream all;
  all << in.rdbuf();
  return all.str();
}

}  // namespace moesaic::device_model::ptx
