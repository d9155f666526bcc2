// Turns what was noted during a launch into sentences with places in the kernel's source.
// SPDX-License-Identifier: Apache-2.0
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "fibre.hpp"
#include "machine.hpp"

namespace moesaic::device_model::internal {
namespace {

thread_local place_source const* other_source = nullptr;

/// Return addresses of the frames from `frame` on, as long as they stay on the stack.
void walk(void** frame, std::byte const* low, std::byte const* high, place& p, int from) {
  for (int i = from; i < place::depth; ++i) {
    auto const* const at = reinterpret_cast<std::byte const*>(frame);
    if (at < low || at + 16 > high || reinterpret_cast<std::uintptr_t>(at) % 8 != 0 || frame[1] == nullptr) return;
    p.at[i] = frame[1];
    auto** const up = static_cast<void**>(frame[0]);
    if (up <= frame) return;
    frame = up;
  }
}

std::uintptr_t load_bias() {
  std::uintptr_t bias = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::uintptr_t*>(out) = info->dlpi_addr;
        return 1;  // the first is the program
      },
      &bias);
  return bias;
}

struct line {
  std::string function, file;  ///< "gemm.hpp:41", empty if not known
  bool seam = false;           ///< of device/ or the model's own headers
};

/// The inlined functions at a return address, innermost first.
std::vector<line> const& lines_at(void const* address) {
  static std::unordered_map<void const*, std::vector<line>> known;
  auto const [found, fresh] = known.try_emplace(address);
  std::vector<line>& lines = found->second;
  if (!fresh) return lines;
  char program[4096] = {};
  if (readlink("/proc/self/exe", program, sizeof program - 1) <= 0) return lines;
  // The call itself stands before the address that it returns to.
  auto const at = reinterpret_cast<std::uintptr_t>(address) - load_bias() - 1;
  std::FILE* const out = popen(text("addr2line -Cfi -e '%s' 0x%zx 2>/dev/null", program, static_cast<std::size_t>(at)).c_str(), "r");
  if (out == nullptr) return lines;
  char read[8192];
  auto const next_line = [&] {
    if (std::fgets(read, sizeof read, out) == nullptr) return false;
    std::size_t const length = std::strlen(read);
    bool const whole = length > 0 && read[length - 1] == '\n';
    if (whole) read[length - 1] = 0;
    for (int c = 0; !whole && c != '\n' && c != EOF;) c = std::fgetc(out);
    return true;
  };
  while (next_line()) {
    line l;
    l.function = read;
    if (!next_line()) break;
    std::string file = read;
    if (auto const discriminator = file.find(" ("); discriminator != std::string::npos) file.resize(discriminator);
    l.seam = file.find("/moesaic/device/") != std::string::npos || file.find("/primitives.hpp:") != std::string::npos ||
             file.find("/matrix_primitives.hpp:") != std::string::npos || file.find("/model.hpp:") != std::string::npos;
    if (file.rfind("??", 0) != 0 && file.find(":?") == std::string::npos) l.file = file.substr(file.rfind('/') + 1);
    lines.push_back(l);
  }
  pclose(out);
  return lines;
}

bool same(place const& a, place const& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

void note(char const* kind, std::string text, place const& first, place const& second) {
  machine* const m = active;
  if (m == nullptr) {
    std::fprintf(stderr, "device model, outside of a launch: %s: %s\n", kind, text.c_str());
    std::abort();
  }
  if (m->findings.size() >= 64) return;
  for (finding const& f : m->findings)
    if (f.kind == kind && f.text == text && same(f.first, first) && same(f.second, second)) return;
  std::string who;
  if (thread const* const t = running) who = internal::text(", block (%d, %d, %d), thread %d", t->home->x, t->home->y, t->home->z, t->id);
  m->findings.push_back({kind, std::move(text), first, second, std::move(who)});
}

void replace(std::string& in, char const* what, std::string const& with) {
  for (auto at = in.find(what); at != std::string::npos; at = in.find(what, at + with.size())) in.replace(at, std::strlen(what), with);
}

}  // namespace

place here() {
  place p;
  if (other_source != nullptr) {
    p.at[0] = reinterpret_cast<void const*>(other_source->here());
    return p;
  }
  if (thread const* const t = running) walk(static_cast<void**>(__builtin_frame_address(0)), t->stack, t->stack + t->stack_bytes, p, 0);
  return p;
}
void walk_frames(void** frame, thread const& t, place& p, int from) { walk(frame, t.stack, t.stack + t.stack_bytes, p, from); }
void use_places(place_source const* source) { other_source = source; }
bool has_place_source() { return other_source != nullptr; }

place place_of_blocked(thread const& t) {
  place p;
  if (other_source != nullptr) return t.waits_at;  // an interpreter's own frames say nothing
  auto const [address, frame] = saved(t.stack_pointer);
  p.at[0] = address;
  walk(static_cast<void**>(frame), t.stack, t.stack + t.stack_bytes, p, 1);
  return p;
}

std::string to_string(place const& p) {
  if (other_source != nullptr) return other_source->name(reinterpret_cast<std::uint64_t>(p.at[0]));
  std::string function;
  for (void const* const at : p.at) {
    if (at == nullptr) break;
    for (line const& l : lines_at(at)) {
      if (!l.file.empty() && !l.seam) return l.file;
      if (function.empty() && !l.function.empty() && l.function != "??" && l.function.find("moesaic::device_model::") == std::string::npos)
        function = l.function;
    }
  }
  return function.empty() ? "an unknown place" : function;
}

std::string text(char const* format, ...) {
  char out[1024];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(out, sizeof out, format, arguments);
  va_end(arguments);
  return out;
}

void report(char const* kind, std::string text, place const& first, place const& second) { note(kind, std::move(text), first, second); }
void fail(char const* kind, std::string text, place const& first, place const& second) {
  note(kind, std::move(text), first, second);
  throw abandoned{};
}

std::vector<std::string> resolve(std::vector<finding> const& findings, std::string const& kernel) {
  std::vector<std::string> out, sentences;
  for (finding const& f : findings) {
    std::string text = f.text;
    if (text.find("{1}") != std::string::npos) replace(text, "{1}", to_string(f.first));
    if (text.find("{2}") != std::string::npos) replace(text, "{2}", to_string(f.second));
    // The same sentence from inlined copies of one line is told once.
    auto sentence = f.kind + ": " + text;
    if (std::find(sentences.begin(), sentences.end(), sentence) != sentences.end()) continue;
    out.push_back(sentence + " (" + kernel + f.who + ")");
    sentences.push_back(std::move(sentence));
  }
  return out;
}

std::string where_threads_wait(machine const& m) {
  std::string out = "nothing can go on";
  for (auto const& c : m.clusters) {
    for (auto const& owned : c->blocks) {
      block const& b = *owned;
      struct group {
        thread const* first;
        int count;
        place at;
      };
      std::vector<group> groups;
      int ended = 0;
      for (thread const* const t : b.threads) {
        if (t->ended) {
          ++ended;
          continue;
        }
        auto const found = std::find_if(groups.begin(), groups.end(), [&](group const& g) {
          thread const& o = *g.first;
          if (o.why.what != t->why.what || o.why.on != t->why.on || o.why.number != t->why.number) return false;
          auto const at = place_of_blocked(*t);
          return same(g.at, at) || to_string(g.at) == to_string(at);  // one line may be inlined many times
        });
        if (found != groups.end()) ++found->count;
        else groups.push_back({t, 1, place_of_blocked(*t)});
      }
      out += text("; block (%d, %d, %d): ", b.x, b.y, b.z);
      char const* comma = "";
      for (group const& g : groups) {
        thread const& t = *g.first;
        out += comma + text("%d thread%s from %d %s in %s", g.count, g.count == 1 ? "" : "s", t.id, g.count == 1 ? "waits" : "wait",
                            t.why.what ? t.why.what : "?");
        if (t.why.number >= 0) out += text(t.why.number < 16 ? "(%lld)" : "(%llx)", static_cast<long long>(t.why.number));
        if (t.why.on != nullptr) out += text(" of shared+%td", static_cast<std::byte const*>(t.why.on) - b.shared);
        if (g.at.at[0] != nullptr) out += " at " + to_string(g.at);
        comma = ", ";
      }
      if (ended > 0) out += comma + text("%d %s ended", ended, ended == 1 ? "has" : "have");
      if (out.size() > 4000) return out + "; and other blocks";
    }
  }
  return out;
}

}  // namespace moesaic::device_model::internal
