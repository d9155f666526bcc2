// Reads PTX as nvcc writes it, inline assembly included.
// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <unordered_map>

#include <moesaic/base/status.hpp>

namespace moesaic::device_model::ptx {
namespace {

/// Names of one { }: of registers, variables of the function, and labels.
struct names {
  int outside = -1;
  std::unordered_map<std::string_view, int> registers, variables, labels;
};

class parser {
 public:
  explicit parser(std::string source) {
    out_.source = std::make_shared<std::string const>(std::move(source));
    at_ = out_.source->data();
    end_ = at_ + out_.source->size();
  }

  text module() {
    skip();
    while (at_ != end_) {
      auto const word = name();
      if (word == ".version" || word == ".target" || word == ".address_size") rest_of_line();
      else if (word == ".file") file();
      else if (word == ".section") section();
      else if (word == ".pragma") rest_of_line();
      else if (word == ".visible" || word == ".weak" || word == ".common") continue;
      else if (word == ".extern") external_ = true;
      else if (word == ".entry" || word == ".func") function_of(word == ".entry");
      else if (word == ".global" || word == ".const" || word == ".shared")
        out_.variables.push_back(variable_of(word, true)), external_ = false;
      else fail("a directive that is not known: " + std::string(word));
    }
    return std::move(out_);
  }

 private:
  // Characters and words.

  [[noreturn]] void fail(std::string const& what) const { throw error("PTX line " + std::to_string(line_) + ": " + what); }

  void skip() {
    while (at_ != end_) {
      if (*at_ == '\n') ++line_, ++at_;
      else if (std::isspace(static_cast<unsigned char>(*at_)) != 0) ++at_;
      else if (at_[0] == '/' && end_ - at_ > 1 && at_[1] == '/') while (at_ != end_ && *at_ != '\n') ++at_;
      else if (at_[0] == '/' && end_ - at_ > 1 && at_[1] == '*') {
        for (at_ += 2; end_ - at_ > 1 && !(at_[0] == '*' && at_[1] == '/'); ++at_) line_ += *at_ == '\n';
        at_ = end_ - at_ > 1 ? at_ + 2 : end_;
      } else return;
    }
  }
  char peek() const { return at_ == end_ ? '\0' : *at_; }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    skip();
    return true;
  }
  void expect(char c) {
    if (!accept(c))
      fail(std::string("expected '") + c + "', found '" +
           std::string(at_, std::min<std::size_t>(20, static_cast<std::size_t>(end_ - at_))) + "'");
  }
  static bool of_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.'; }
  /// A name, directive or instruction with its dots; `::` belongs to it.
  std::string_view name() {
    auto const from = at_;
    while (at_ != end_ && (of_name(*at_) || (*at_ == ':' && end_ - at_ > 1 && at_[1] == ':'))) at_ += *at_ == ':' ? 2 : 1;
    if (at_ == from) fail(std::string("expected a name, found '") + peek() + "'");
    std::string_view const word(from, static_cast<std::size_t>(at_ - from));
    skip();
    return word;
  }
  void rest_of_line() {
    while (at_ != end_ && *at_ != '\n') ++at_;
    skip();
  }
  std::int64_t integer() {
    auto const negative = accept('-');
    int base = 10;
    if (peek() == '0' && end_ - at_ > 1 && (at_[1] == 'x' || at_[1] == 'X')) base = 16, at_ += 2;
    std::uint64_t value = 0;
    auto const done = std::from_chars(at_, end_, value, base);
    if (done.ec != std::errc()) fail("expected a number");
    at_ = done.ptr;
    if (peek() == 'U') ++at_;
    skip();
    return static_cast<std::int64_t>(negative ? 0 - value : value);
  }
  operand number() {
    operand o;
    auto const text = at_ + (peek() == '-' ? 1 : 0);
    if (text[0] == '0' && (text[1] == 'f' || text[1] == 'F' || text[1] == 'd' || text[1] == 'D')) {
      auto const digits = text[1] == 'f' || text[1] == 'F' ? 8 : 16;
      std::uint64_t value = 0;
      if (end_ - text < 2 + digits || std::from_chars(text + 2, text + 2 + digits, value, 16).ptr != text + 2 + digits)
        fail("bits of a real that are too few");
      if (text != at_) value ^= std::uint64_t{1} << (digits * 4 - 1);
      at_ = text + 2 + digits;
      skip();
      o.what = operand::kind::real, o.real_bits = digits * 4, o.number = static_cast<std::int64_t>(value);
      return o;
    }
    auto p = text;
    while (p != end_ && std::isdigit(static_cast<unsigned char>(*p)) != 0) ++p;
    if (p != end_ && (*p == '.' || *p == 'e' || *p == 'E')) {
      char* stop = nullptr;
      o.what = operand::kind::real, o.real = std::strtod(at_, &stop);
      at_ = stop;
      skip();
      return o;
    }
    o.what = operand::kind::integer, o.number = integer();
    return o;
  }

  // Directives.

  void file() {
    auto const index = static_cast<std::size_t>(integer());
    expect('"');
    auto const from = at_;
    while (at_ != end_ && *at_ != '"') ++at_;
    if (out_.files.size() <= index) out_.files.resize(index + 1);
    out_.files[index] = std::string_view(from, static_cast<std::size_t>(at_ - from));
    rest_of_line();
  }
  void section() {
    name();
    expect('{');
    for (int depth = 1; at_ != end_ && depth > 0; skip()) {
      depth += *at_ == '{' ? 1 : *at_ == '}' ? -1 : 0;
      ++at_;
    }
  }
  void loc() {
    location l;
    l.file = static_cast<int>(integer()), l.line = static_cast<int>(integer()), l.column = static_cast<int>(integer());
    if (accept(',')) {
      name(), name();      // function_name and a label of its text
      if (peek() == '+') accept('+'), integer();
      expect(',');
      name();              // inlined_at
      auto const f = static_cast<int>(integer()), n = static_cast<int>(integer()), c = static_cast<int>(integer());
      auto const known = places_.find({f, n, c});
      l.inlined_at = known != places_.end() ? known->second : add_place({f, n, c, -1});
    }
    where_ = add_place(l);
  }
  int add_place(location const& l) {
    out_.locations.push_back(l);
    auto const index = static_cast<int>(out_.locations.size()) - 1;
    places_[{l.file, l.line, l.column}] = index;
    return index;
  }

  data_type type_of(std::string_view word) const {
    if (word == ".pred") return {'p', 1};
    int bits = 0;
    if (word.size() < 3 || std::strchr("busf", word[1]) == nullptr ||
        std::from_chars(word.data() + 2, word.data() + word.size(), bits).ec != std::errc())
      fail("a type that is not known: " + std::string(word));
    return {word[1], bits};
  }

  variable variable_of(std::string_view where, bool with_values) {
    variable v;
    v.of = where == ".shared" ? space::shared : where == ".local" ? space::local : where == ".param" ? space::param : space::global;
    data_type type{};
    int lanes = 1;
    for (bool typed = false; !typed;) {
      auto const word = name();
      if (word == ".align") v.align = static_cast<int>(integer());
      else if (word == ".ptr" || word == ".global" || word == ".attribute") continue;
      else if (word == ".v2" || word == ".v4") lanes = word[2] - '0';
      else type = type_of(word), typed = true;
      if (word == ".align" && peek() != '.') fail("expected a type");
    }
    while (peek() == '.') {              // of a pointer: .ptr .global .align 8
      if (name() == ".align") integer();
    }
    v.element_bytes = type.bits / 8;
    v.align = std::max(v.align, v.element_bytes * lanes);
    v.name = name();
    v.bytes = static_cast<std::uint64_t>(v.element_bytes * lanes);
    while (accept('[')) {
      if (accept(']')) {
        v.open = true;
        continue;
      }
      v.bytes *= static_cast<std::uint64_t>(integer());
      expect(']');
    }
    if (!with_values) return v;
    if (v.open && external_) v.bytes = 0;
    if (accept('=')) values(v);
    expect(';');
    return v;
  }
  void values(variable& v) {
    if (accept('{')) {
      if (accept('}')) return;
      do values(v);
      while (accept(','));
      expect('}');
      return;
    }
    if (std::isdigit(static_cast<unsigned char>(peek())) != 0 || peek() == '-') {
      auto const o = number();
      std::uint64_t bits = static_cast<std::uint64_t>(o.number);
      if (o.what == operand::kind::real && o.real_bits == 0) fail("a decimal real as a value");
      v.values.push_back(bits);
      return;
    }
    auto word = name();
    if (word == "generic") {
      expect('(');
      word = name();
      expect(')');
    }
    v.addresses.push_back({v.values.size(), word});
    v.values.push_back(accept('+') ? static_cast<std::uint64_t>(integer()) : 0);
  }

  // Functions.

  void parameters(int& count) {
    expect('(');
    while (!accept(')')) {
      auto const word = name();
      if (word == ".reg") fail("a parameter in a register");
      add_variable(variable_of(word, false)), ++count;
      accept(',');
    }
  }
  void add_variable(variable const& v) {
    scopes_[static_cast<std::size_t>(scope_)].variables[v.name] = static_cast<int>(f_.variables.size());
    f_.variables.push_back(v);
  }
  void function_of(bool is_kernel) {
    f_ = {};
    f_.is_kernel = is_kernel, f_.line = line_;
    scopes_.assign(1, {});
    scope_ = 0, where_ = -1, external_ = false;
    if (!is_kernel && peek() == '(') parameters(f_.results);
    f_.name = name();
    if (peek() == '(') parameters(f_.parameters);
    while (peek() == '.') {              // .maxntid 128, 1, 1 and its like
      auto const word = name();
      int product = 1;
      while (std::isdigit(static_cast<unsigned char>(peek())) != 0) product *= static_cast<int>(integer()), accept(',');
      if (word == ".maxntid" || word == ".reqntid") f_.most_threads = product;
      if (word == ".minnctapersm") f_.least_blocks = product;
    }
    if (!accept(';')) {
      f_.defined = true;
      expect('{');
      uses_.clear();
      for (int depth = 1; depth > 0;) statement(depth);
      for (auto const& [instruction_index, operand_index, in] : uses_)
        resolve_label(f_.body[instruction_index].operands[operand_index], in);
    }
    for (auto& known : out_.functions)
      if (known.name == f_.name) {
        if (f_.defined) known = std::move(f_);
        return;
      }
    out_.functions.push_back(std::move(f_));
  }

  void statement(int& depth) {
    if (accept('{')) {
      ++depth;
      scopes_.push_back({scope_, {}, {}, {}});
      scope_ = static_cast<int>(scopes_.size()) - 1;
      return;
    }
    if (accept('}')) {
      --depth;
      scope_ = std::max(scopes_[static_cast<std::size_t>(scope_)].outside, 0);
      return;
    }
    if (accept(';')) return;
    instruction i;
    i.line = line_, i.where = where_;
    if (accept('@')) {
      auto const inverted = accept('!');
      i.guard = named(name());
      i.guard.inverted = inverted;
      if (i.guard.what != operand::kind::reg) fail("a guard that is not a register");
    }
    auto const from_line = line_;
    auto const word = name();
    if (word == ".reg") return registers();
    if (word == ".loc") return loc();
    if (word == ".pragma") return static_cast<void>(rest_of_line());
    if (word == ".local" || word == ".param") return add_variable(variable_of(word, true));
    if (word == ".shared") {
      out_.variables.push_back(variable_of(word, true));
      return;
    }
    if (word == ".branchtargets" || word == ".callprototype") fail(std::string(word) + " is not supported");
    if (peek() == ':') {
      accept(':');
      auto& labels = scopes_[static_cast<std::size_t>(scope_)].labels;
      if (labels.contains(word)) fail("a label twice: " + std::string(word));
      labels[word] = static_cast<int>(f_.labels.size());
      f_.labels.push_back(f_.body.size());
      if (peek() == '.' && std::string_view(at_, std::min<std::size_t>(14, static_cast<std::size_t>(end_ - at_))) == ".branchtargets") {
        name();
        branch_targets_[word] = {};
        do branch_targets_[word].push_back(name());
        while (accept(','));
        expect(';');
      }
      return;
    }
    i.line = from_line;
    i.name = word;
    if (peek() != ';') {
      do i.operands.push_back(read_operand());
      while (accept(','));
    }
    expect(';');
    if (word == "brx.idx" || word == "brx.idx.uni") {      // the list of targets takes the place of its name
      if (i.operands.size() != 2 || !branch_targets_.contains(i.operands[1].name)) fail("targets of brx.idx that are not known");
      auto const& targets = branch_targets_[i.operands[1].name];
      i.operands.resize(1);
      for (auto const target : targets) {
        operand o;
        o.name = target, o.what = operand::kind::label;
        i.operands.push_back(o);
      }
    }
    for (std::size_t n = 0; n < i.operands.size(); ++n)
      if (i.operands[n].what == operand::kind::label) uses_.push_back({f_.body.size(), n, scope_});
    f_.body.push_back(std::move(i));
  }

  void registers() {
    auto const type = type_of(name());
    auto const add = [&](std::string_view word) {
      scopes_[static_cast<std::size_t>(scope_)].registers[word] = static_cast<int>(f_.registers.size());
      f_.registers.push_back(type);
    };
    do {
      auto const word = name();
      if (accept('<')) {
        auto const count = static_cast<int>(integer());
        expect('>');
        // %r<3> names %r0 .. %r2
        auto& known = scopes_[static_cast<std::size_t>(scope_)];
        known.registers.reserve(known.registers.size() + static_cast<std::size_t>(count));
        for (int k = 0; k < count; ++k) add(kept(std::string(word) + std::to_string(k)));
      } else {
        add(word);
      }
    } while (accept(','));
    expect(';');
  }
  std::string_view kept(std::string const& word) {
    auto [at, is_new] = strings_->try_emplace(word, 0);
    return at->first;
  }

  operand named(std::string_view word) {
    operand o;
    o.name = word;
    for (auto s = scope_; s >= 0; s = scopes_[static_cast<std::size_t>(s)].outside) {
      auto const& known = scopes_[static_cast<std::size_t>(s)];
      if (auto const r = known.registers.find(word); r != known.registers.end()) {
        o.what = operand::kind::reg, o.index = r->second;
        return o;
      }
      if (auto const v = known.variables.find(word); v != known.variables.end()) {
        o.what = operand::kind::symbol, o.index = v->second, o.of = f_.variables[static_cast<std::size_t>(v->second)].of;
        return o;
      }
    }
    for (std::size_t v = 0; v < out_.variables.size(); ++v)
      if (out_.variables[v].name == word) {
        o.what = operand::kind::symbol, o.index = static_cast<int>(v), o.of = out_.variables[v].of;
        return o;
      }
    o.what = word == "_" ? operand::kind::sink : word[0] == '%' || word == "WARP_SZ" ? operand::kind::special : operand::kind::label;
    return o;
  }

  operand read_operand() {
    if (peek() == '{' || peek() == '(') {
      auto const close = peek() == '{' ? '}' : ')';
      operand o;
      o.what = operand::kind::vector;
      accept(peek());
      if (accept(close)) return o;
      do o.parts.push_back(read_operand());
      while (accept(','));
      expect(close);
      return o;
    }
    if (accept('[')) {
      operand o;
      o.what = operand::kind::address;
      o.parts.push_back(read_operand());
      o.number = std::exchange(o.parts[0].number, o.parts[0].what == operand::kind::integer ? o.parts[0].number : 0);
      if (o.parts[0].what == operand::kind::integer) o.number = 0;
      while (accept(',')) o.parts.push_back(read_operand());
      expect(']');
      return o;
    }
    if (accept('!')) {
      auto o = read_operand();
      o.inverted = !o.inverted;
      return o;
    }
    if (std::isdigit(static_cast<unsigned char>(peek())) != 0 || peek() == '-') return number();
    auto o = named(name());
    if (accept('|')) o.parts.push_back(read_operand());
    if (o.what == operand::kind::reg || o.what == operand::kind::symbol) {
      if (accept('+')) o.number = integer();
      else if (peek() == '-') o.number = integer();
    }
    return o;
  }

  void resolve_label(operand& o, int in) const {
    for (auto s = in; s >= 0; s = scopes_[static_cast<std::size_t>(s)].outside) {
      auto const& known = scopes_[static_cast<std::size_t>(s)].labels;
      if (auto const l = known.find(o.name); l != known.end()) {
        o.index = l->second;
        return;
      }
    }
    // A function's name, or a name that is not known: the decoder knows which.
  }

  struct use {
    std::size_t instruction_index, operand_index;
    int in;
  };

  text out_;
  char const* at_ = nullptr;
  char const* end_ = nullptr;
  int line_ = 1;
  bool external_ = false;
  function f_;
  std::vector<names> scopes_;
  int scope_ = 0, where_ = -1;
  std::vector<use> uses_;
  std::map<std::string_view, std::vector<std::string_view>> branch_targets_;
  struct place {
    int file, line, column;
    friend bool operator<(place const& a, place const& b) {
      return a.file != b.file ? a.file < b.file : a.line != b.line ? a.line < b.line : a.column < b.column;
    }
  };
  std::map<place, int> places_;
  std::shared_ptr<std::map<std::string, int>> strings_ = std::make_shared<std::map<std::string, int>>();
};

}  // namespace

text parse(std::string source) { return parser(std::move(source)).module(); }

}  // namespace moesaic::device_model::ptx
