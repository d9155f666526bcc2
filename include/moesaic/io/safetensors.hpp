// Safetensors files become tensors, and tensors become a file: one file, a folder, an index of shards, or bytes in memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/tensor.hpp>
#include <moesaic/io/mapped_file.hpp>

static_assert(std::endian::native == std::endian::little, "Safetensors store little-endian numbers, which this reader hands out as they are.");

namespace moesaic {

/// The tensors of a checkpoint, by name. A `tensor_source`.
///
/// Everything a file says is checked when it is opened; what does not hold throws `error` with the file, the tensor, what was expected and
/// what was found. After that no tensor reaches outside its file. Format: https://github.com/huggingface/safetensors (header of at most
/// 100 MB; tensors tile the data without a hole). Reading from several threads is safe.
class safetensors {
 public:
  struct entry {
    std::string name;
    std::string stored_as;              ///< the format as the file spells it: "BF16"
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, end = 0;    ///< bytes, in the data of its file
    std::size_t file = 0;               ///< which of the files
    tensor value;                       ///< type `same` when the library does not know `stored_as`; then `find` throws
  };
  using metadata_list = std::vector<std::pair<std::string, std::string>>;

  /// A file, an index (`*.json`), or a folder: of `model.safetensors`, else of one index, else of a single file of tensors. Shards may have
  /// any name and lie in the index's folder or below it.
  explicit safetensors(std::string const& path);
  /// A whole file in memory, which must outlive this; `name` stands for the path in errors.
  explicit safetensors(list<const std::byte> bytes, std::string name = "memory");

  /// nullptr for an unknown name; throws `error` for a format that the library does not know. Valid as long as this, moves included.
  const tensor* find(std::string_view name) const;
  /// The file that holds a name, or that would: for error messages.
  std::string where(std::string_view name) const;
  /// A value of the file's `__metadata__` (of the first shard that has the key), or empty.
  std::string_view metadata(std::string_view key) const;

  /// All entries in order of their names.
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }

 private:
  const entry* look_up(std::string_view name) const;
  void open_file(std::string const& path);
  void open_index(std::string const& path);
  void add(list<const std::byte> bytes);
  void sort_names();

  std::string path_;
  std::vector<std::string> files_;
  std::vector<mapped_file> mappings_;
  std::vector<entry> entries_;
  metadata_list metadata_;
};

/// What `write_safetensors` writes under one name; `data` holds shape × type.
struct named_tensor {
  std::string name;
  dtype type = dtype::same;
  std::vector<std::int64_t> shape;
  list<const std::byte> data;
};

/// Writes a file that appears whole or not at all. Throws `error` for what the reader would refuse, and when the file cannot be written.
inline void write_safetensors(std::string const& path, std::vector<named_tensor> const& tensors, safetensors::metadata_list const& metadata = {});

namespace detail {

inline constexpr std::uint64_t header_limit = 100'000'000;   // the reference implementation's
inline constexpr std::size_t dimension_limit = 64;

struct stored_format {
  std::string_view name;
  dtype type;
};
/// The first entry of a type is how it is written.
inline constexpr stored_format stored_formats[] = {
    {"F64", dtype::fp64},     {"F32", dtype::fp32},     {"BF16", dtype::bf16},    {"F16", dtype::fp16},   {"F8_E4M3", dtype::e4m3},
    {"F8_E5M2", dtype::e5m2}, {"F8_E8M0", dtype::e8m0}, {"I64", dtype::int64},    {"I32", dtype::int32},  {"I16", dtype::int16},
    {"I8", dtype::int8},      {"U64", dtype::uint64},   {"U32", dtype::uint32},   {"U16", dtype::uint16}, {"U8", dtype::uint8},
    {"BOOL", dtype::uint8}};

/// A name out of a file, fit for a message whatever it contains.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 200;
  std::string out = "'";
  for (char const c : text.substr(0, longest)) out += static_cast<unsigned char>(c) < 32 || c == 127 ? '?' : c;
  return out + (text.size() > longest ? "...'" : "'");
}

inline std::string text_of(std::vector<std::int64_t> const& shape) {
  std::string out = "[";
  for (auto const extent : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
  return out + "]";
}

/// nlohmann's events boiled down to four: a value (scalars, and the opening of an object or array), a key, a close, a syntax error. The
/// parser keeps its own stack, so that no nesting in a file exhausts ours.
enum class json_kind : std::uint8_t { null, boolean, integer, negative, fraction, string, object, array };

inline const char* name(json_kind kind) {
  constexpr const char* names[] = {"null", "a boolean", "an integer", "a negative integer", "a number that is no 64-bit integer", "a string", "an object", "an array"};
  return names[static_cast<int>(kind)];
}

struct json_value {
  json_kind kind;
  std::uint64_t integer = 0;
  std::string* text = nullptr;
};

template <class Rules>
struct json_events {
  Rules& rules;

  bool pass(json_value const& value) { return rules.value(value), true; }
  bool null() { return pass({json_kind::null}); }
  bool boolean(bool) { return pass({json_kind::boolean}); }
  bool number_integer(std::int64_t) { return pass({json_kind::negative}); }
  bool number_unsigned(std::uint64_t number) { return pass({json_kind::integer, number}); }
  bool number_float(double, std::string const&) { return pass({json_kind::fraction}); }
  bool string(std::string& text) { return pass({json_kind::string, 0, &text}); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return pass({json_kind::object}); }
  bool start_array(std::size_t) { return pass({json_kind::array}); }
  bool key(std::string& text) { return rules.key(std::move(text)), true; }
  bool end_object() { return rules.close(), true; }
  bool end_array() { return rules.close(), true; }
  bool parse_error(std::size_t byte, std::string const&, nlohmann::json::exception const& reason) {
    rules.fail("expected JSON, found an error at byte " + std::to_string(byte) + " of it: " + in_quotes(reason.what()));
    return false;
  }
};

template <class Rules>
void read_json(list<const std::byte> bytes, Rules& rules) {
  auto const* const text = reinterpret_cast<const char*>(bytes.data);
  // The parser takes a zero byte for the end of its input, and would overlook what follows.
  if (std::find(text, text + bytes.size, '\0') != text + bytes.size) rules.fail("expected JSON, found a zero byte in it");
  auto events = json_events<Rules>{rules};
  nlohmann::json::sax_parse(text, text + bytes.size, &events);
}

/// What a header may say. Its entries have ranges inside the data, of the size that shape and format ask for.
struct header_rules {
  std::string const& path;
  std::int64_t data_bytes;
  std::vector<safetensors::entry> entries{};
  safetensors::metadata_list metadata{};

  enum field : int { none = 0, type = 1, shape = 2, offsets = 4, all = 7 };
  int depth = 0;
  bool in_metadata = false, met_metadata = false;
  field current = none;
  int seen = none;
  std::vector<std::uint64_t> range{};

  [[noreturn]] void fail(std::string const& what) const { throw error(path + ": header: " + what); }
  [[noreturn]] void fail_tensor(std::string const& what) const { throw error(path + ": tensor " + in_quotes(entries.back().name) + ": " + what); }

  void key(std::string&& text) {
    if (depth == 1) {
      in_metadata = text == "__metadata__";
      if (in_metadata && std::exchange(met_metadata, true)) fail("expected '__metadata__' once, found it twice");
      if (in_metadata) return;
      entries.emplace_back().name = std::move(text);
      seen = none;
      range.clear();
    } else if (in_metadata) {
      metadata.emplace_back(std::move(text), std::string());
    } else {
      current = text == "dtype" ? type : text == "shape" ? shape : text == "data_offsets" ? offsets : none;
      if (current == none) fail_tensor("expected the keys dtype, shape and data_offsets, found " + in_quotes(text));
      if ((seen & current) != 0) fail_tensor("expected " + in_quotes(text) + " once, found it twice");
      seen |= current;
    }
  }

  void value(json_value const& found) {
    if (depth == 0) {
      if (found.kind != json_kind::object) fail(std::string("expected an object, found ") + name(found.kind));
    } else if (in_metadata) {
      metadata_value(found);
    } else if (depth == 1) {
      expect(json_kind::object, found, "value");
    } else if (depth == 2) {
      expect(current == type ? json_kind::string : json_kind::array, found, current == type ? "dtype" : current == shape ? "shape" : "data_offsets");
      if (current == type) entries.back().stored_as = std::move(*found.text);
    } else {
      expect(json_kind::integer, found, current == shape ? "number in shape" : "number in data_offsets");
      number(found.integer);
    }
    if (found.kind == json_kind::object || found.kind == json_kind::array) ++depth;
  }

  void close() {
    --depth;
    if (depth == 1 && !std::exchange(in_metadata, false)) finish_tensor();
  }

 private:
  void expect(json_kind kind, json_value const& found, const char* what) const {
    if (found.kind != kind) fail_tensor(std::string("expected ") + name(kind) + " as " + what + ", found " + name(found.kind));
  }

  void metadata_value(json_value const& found) {
    if (depth == 1) {
      if (found.kind != json_kind::object && found.kind != json_kind::null)
        fail(std::string("expected an object as '__metadata__', found ") + name(found.kind));
      if (found.kind == json_kind::null) in_metadata = false;
      return;
    }
    auto& [key, text] = metadata.back();
    if (found.kind != json_kind::string) fail("expected a string as metadata " + in_quotes(key) + ", found " + name(found.kind));
    text = std::move(*found.text);
  }

  void number(std::uint64_t integer) {
    auto& extents = entries.back().shape;
    if (current == offsets && range.size() == 2) fail_tensor("expected two data_offsets, found more");
    if (current == offsets) return range.push_back(integer);
    if (integer > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      fail_tensor("expected dimensions of 63 bits, found " + std::to_string(integer));
    if (extents.size() == dimension_limit) fail_tensor("expected at most " + std::to_string(dimension_limit) + " dimensions, found more");
    extents.push_back(static_cast<std::int64_t>(integer));
  }

  void finish_tensor() {
    auto& made = entries.back();
    if (seen != all) {
      auto const* const lacking = (seen & type) == 0 ? "dtype" : (seen & shape) == 0 ? "shape" : "data_offsets";
      fail_tensor(std::string("expected the keys dtype, shape and data_offsets, found no ") + lacking);
    }
    if (range.size() != 2) fail_tensor("expected two data_offsets, found " + std::to_string(range.size()));
    auto const text = "[" + std::to_string(range[0]) + ", " + std::to_string(range[1]) + "]";
    if (range[0] > range[1]) fail_tensor("expected data_offsets in rising order, found " + text);
    if (range[1] > static_cast<std::uint64_t>(data_bytes))
      fail_tensor("expected data_offsets within the " + std::to_string(data_bytes) + " bytes of data in the file, found " + text + "; is the file truncated?");
    made.begin = static_cast<std::int64_t>(range[0]);
    made.end = static_cast<std::int64_t>(range[1]);

    auto const* const known = std::find_if(std::begin(stored_formats), std::end(stored_formats), [&](auto const& f) { return f.name == made.stored_as; });
    auto const element = known == std::end(stored_formats) ? 1 : bits(known->type) / 8;
    std::int64_t bytes = element;
    for (auto const extent : made.shape) {
      if (extent != 0 && bytes > std::numeric_limits<std::int64_t>::max() / extent)
        fail_tensor("expected a shape of less than 2^63 bytes, found " + text_of(made.shape) + " " + in_quotes(made.stored_as));
      bytes *= extent;
    }
    if (known == std::end(stored_formats)) return;
    made.value.type = known->type;
    if (bytes != made.end - made.begin)
      fail_tensor("expected " + std::to_string(bytes) + " bytes for " + text_of(made.shape) + " " + made.stored_as + ", found " + std::to_string(made.end - made.begin) + " in data_offsets " + text);
  }
};

/// A header's entries, whose ranges tile `data_bytes`: whoever writes in one tensor changes no other, and no byte is hidden.
inline header_rules read_header(list<const std::byte> text, std::int64_t data_bytes, std::string const& path) {
  auto header = header_rules{path, data_bytes};
  if (text.empty() || text[0] != std::byte{'{'}) header.fail("expected JSON that begins with '{'");
  read_json(text, header);

  auto& entries = header.entries;
  std::sort(entries.begin(), entries.end(), [](auto const& a, auto const& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::int64_t reached = 0;
  const safetensors::entry* previous = nullptr;
  for (auto const& next : entries) {
    auto const at = path + ": tensor " + in_quotes(next.name) + ": expected its data at byte " + std::to_string(reached) + ", where " +
                    (previous != nullptr ? "tensor " + in_quotes(previous->name) + " ends" : std::string("the data begins"));
    if (next.begin < reached) throw error(at + ", found it at " + std::to_string(next.begin) + ": they overlap");
    if (next.begin > reached) throw error(at + ", found it at " + std::to_string(next.begin) + ": bytes that belong to no tensor");
    reached = next.end;
    previous = &next;
  }
  if (reached != data_bytes)
    throw error(path + ": expected " + std::to_string(reached) + " bytes of data, found " + std::to_string(data_bytes) + ": bytes that belong to no tensor");
  return header;
}

/// An index: which file of its folder holds which tensor.
struct index_rules {
  std::string const& path;
  std::vector<std::pair<std::string, std::string>> file_of{};   // (tensor, file)
  bool met_map = false;
  bool in_map = false;
  int depth = 0;

  [[noreturn]] void fail(std::string const& what) const { throw error(path + ": " + what); }

  void key(std::string&& text) {
    if (depth == 1) {
      in_map = text == "weight_map";
      if (in_map && std::exchange(met_map, true)) fail("expected 'weight_map' once, found it twice");
    } else if (in_map) {
      file_of.emplace_back(std::move(text), std::string());
    }
  }

  void value(json_value const& found) {
    if (depth == 0 && found.kind != json_kind::object) fail(std::string("expected an object, found ") + name(found.kind));
    if (depth == 1 && in_map && found.kind != json_kind::object) fail(std::string("expected an object as 'weight_map', found ") + name(found.kind));
    if (depth == 2 && in_map) {
      auto& [tensor_name, file] = file_of.back();
      if (found.kind != json_kind::string) fail("tensor " + in_quotes(tensor_name) + ": expected the name of a file, found " + name(found.kind));
      file = std::move(*found.text);
      if (!stays_inside(file)) fail("tensor " + in_quotes(tensor_name) + ": expected a file in the index's folder, found " + in_quotes(file));
    }
    if (found.kind == json_kind::object || found.kind == json_kind::array) ++depth;
  }

  void close() { --depth; }

 private:
  static bool stays_inside(std::string const& file) {
    if (file.empty() || file.find_first_of(std::string_view("\\\0", 2)) != std::string::npos) return false;
    auto const relative = std::filesystem::path(file);
    return relative.is_relative() && std::find(relative.begin(), relative.end(), "..") == relative.end();
  }
};

}  // namespace detail

inline safetensors::safetensors(std::string const& path) : path_(path) {
  namespace fs = std::filesystem;
  auto const ends_with = [](std::string const& text, std::string_view end) { return std::string_view(text).ends_with(end); };
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    ends_with(path, ".json") ? open_index(path) : open_file(path);
    sort_names();
    return;
  }
  auto const usual = (fs::path(path) / "model.safetensors").string();
  std::vector<std::string> files, indices;
  std::error_code reason;
  for (auto entries = fs::directory_iterator(path, reason); !reason && entries != fs::directory_iterator(); entries.increment(reason)) {
    auto const file = entries->path().string();
    if (ends_with(file, ".safetensors")) files.push_back(file);
    if (ends_with(file, ".safetensors.index.json")) indices.push_back(file);
  }
  if (reason) throw error(path + ": cannot be listed: " + reason.message());
  if (std::find(files.begin(), files.end(), usual) != files.end()) {
    open_file(usual);
  } else if (indices.size() == 1) {
    open_index(indices[0]);
  } else if (indices.empty() && files.size() == 1) {
    open_file(files[0]);
  } else {
    throw error(path + ": expected model.safetensors, or one index, or one file of tensors, found " + std::to_string(indices.size()) + " indices and " +
                std::to_string(files.size()) + " files of tensors");
  }
  sort_names();
}

inline safetensors::safetensors(list<const std::byte> bytes, std::string name) : path_(std::move(name)) {
  files_.push_back(path_);
  add(bytes);
  sort_names();
}

inline void safetensors::open_file(std::string const& path) {
  files_.push_back(path);
  mappings_.emplace_back(path);
  add(mappings_.back().bytes());
}

inline void safetensors::open_index(std::string const& path) {
  auto const content = mapped_file(path);
  auto index = detail::index_rules{path};
  if (content.bytes().size > static_cast<std::int64_t>(detail::header_limit))
    index.fail("expected an index of at most " + std::to_string(detail::header_limit) + " bytes, found " + std::to_string(content.bytes().size));
  detail::read_json(content.bytes(), index);
  auto& file_of = index.file_of;
  if (file_of.empty()) index.fail("expected 'weight_map' with tensors, found none");

  std::sort(file_of.begin(), file_of.end());
  for (std::size_t i = 1; i < file_of.size(); ++i)
    if (file_of[i].first == file_of[i - 1].first) index.fail("tensor " + detail::in_quotes(file_of[i].first) + ": expected it once, found it twice");

  auto const folder = std::filesystem::path(path).parent_path();
  auto const in_folder = [&](std::string const& file) { return (folder / file).string(); };
  std::vector<std::string> shards;
  for (auto const& [tensor_name, file] : file_of) shards.push_back(in_folder(file));
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  for (auto const& shard : shards) open_file(shard);
  sort_names();
  for (auto const& [tensor_name, file] : file_of) {
    auto const* const found = look_up(tensor_name);
    if (found == nullptr || files_[found->file] != in_folder(file))
      index.fail("tensor " + detail::in_quotes(tensor_name) + ": expected it in " + detail::in_quotes(file) + ", found it " +
                 (found == nullptr ? "in no shard" : "in " + detail::in_quotes(files_[found->file])));
  }
}

inline void safetensors::add(list<const std::byte> bytes) {
  auto const& path = files_.back();
  constexpr std::int64_t prefix = 8;
  if (bytes.size < prefix)
    throw error(path + ": expected at least 8 bytes, the length of the header, found " + (bytes.empty() ? std::string("an empty file") : std::to_string(bytes.size)));
  std::uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data, sizeof header_bytes);
  if (header_bytes > detail::header_limit)
    throw error(path + ": expected a header of at most " + std::to_string(detail::header_limit) + " bytes, found a length of " + std::to_string(header_bytes));
  auto const left = bytes.size - prefix;
  if (header_bytes > static_cast<std::uint64_t>(left))
    throw error(path + ": expected a header of " + std::to_string(header_bytes) + " bytes, found " + std::to_string(left) + " left in the file; is it truncated?");
  auto const header_size = static_cast<std::int64_t>(header_bytes);
  auto const data = list<const std::byte>{bytes.data + prefix + header_size, left - header_size};

  auto header = detail::read_header({bytes.data + prefix, header_size}, data.size, path);
  for (auto& made : header.entries) {
    made.file = files_.size() - 1;
    made.value.data = data.data + made.begin;
    made.value.bytes = made.end - made.begin;
    entries_.push_back(std::move(made));
  }
  for (auto& [key, text] : header.metadata) {
    auto const same = [&](auto const& other) { return other.first == key; };
    if (std::none_of(metadata_.begin(), metadata_.end(), same)) metadata_.emplace_back(std::move(key), std::move(text));
  }
}

inline void safetensors::sort_names() {
  std::sort(entries_.begin(), entries_.end(), [](auto const& a, auto const& b) { return std::pair(std::string_view(a.name), a.file) < std::pair(std::string_view(b.name), b.file); });
  for (auto& made : entries_) made.value.shape = made.shape;
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    auto const &a = entries_[i - 1], &b = entries_[i];
    if (a.name == b.name)
      throw error(files_[b.file] + ": tensor " + detail::in_quotes(b.name) + ": expected it once, found it " +
                  (a.file == b.file ? std::string("twice") : "in " + detail::in_quotes(files_[a.file]) + " too"));
  }
}

inline const safetensors::entry* safetensors::look_up(std::string_view name) const {
  auto const at = std::lower_bound(entries_.begin(), entries_.end(), name, [](entry const& e, std::string_view wanted) { return e.name < wanted; });
  return at != entries_.end() && at->name == name ? &*at : nullptr;
}

inline const tensor* safetensors::find(std::string_view name) const {
  auto const* const found = look_up(name);
  if (found == nullptr) return nullptr;
  if (found->value.type == dtype::same)
    throw error(files_[found->file] + ": tensor " + detail::in_quotes(name) + ": expected a format that the library knows, found " + detail::in_quotes(found->stored_as));
  return &found->value;
}

inline std::string safetensors::where(std::string_view name) const {
  auto const* const found = look_up(name);
  return found != nullptr ? files_[found->file] : path_;
}

inline std::string_view safetensors::metadata(std::string_view key) const {
  for (auto const& [name, text] : metadata_)
    if (name == key) return text;
  return {};
}

namespace detail {

/// A JSON string. Bytes above 127 stay as they are: names are UTF-8.
inline std::string json_text(std::string_view text) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  for (char const c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 32) out += c;
    else (out += c < 16 ? "\\u000" : "\\u001") += digits[c % 16];
  }
  return out + "\"";
}

}  // namespace detail

inline void write_safetensors(std::string const& path, std::vector<named_tensor> const& tensors, safetensors::metadata_list const& metadata) {
  std::string header = "{";
  auto const separate = [&] { if (header.back() != '{') header += ','; };
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (auto const& [key, text] : metadata) {
      separate();
      header += detail::json_text(key) + ':' + detail::json_text(text);
    }
    header += '}';
  }
  std::vector<list<const std::byte>> parts(2);
  std::int64_t at = 0;
  for (auto const& written : tensors) {
    auto const* const known = std::find_if(std::begin(detail::stored_formats), std::end(detail::stored_formats), [&](auto const& f) { return f.type == written.type; });
    if (known == std::end(detail::stored_formats))
      throw error(path + ": tensor " + detail::in_quotes(written.name) + ": expected a format that a file can hold, found " + moesaic::name(written.type));
    separate();
    header += detail::json_text(written.name) + ":{\"dtype\":\"" + std::string(known->name) + "\",\"shape\":" + detail::text_of(written.shape) + ",\"data_offsets\":" +
              detail::text_of({at, at + written.data.size}) + '}';
    at += written.data.size;
    parts.push_back(written.data);
  }
  header += '}';
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');   // the data begins at a multiple of 64 bytes

  auto const length = static_cast<std::uint64_t>(header.size());
  parts[0] = {reinterpret_cast<const std::byte*>(&length), sizeof length};
  parts[1] = {reinterpret_cast<const std::byte*>(header.data()), static_cast<std::int64_t>(header.size())};
  detail::read_header(parts[1], at, path);
  replace_file(path, parts);
}

}  // namespace moesaic
