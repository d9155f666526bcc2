// Safetensors files become tensors, and tensors become a file: one file, a folder, an index of shards, or bytes in memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/tensor.hpp>
#include <moesaic/io/mapped_file.hpp>

static_assert(std::endian::native == std::endian::little,
              "Safetensors store little-endian numbers, which this reader hands out as they are.");

namespace moesaic {

/// The tensors of a checkpoint, by name. A `tensor_source`.
///
/// Everything a file says is checked when it is opened; what does not hold throws `error` with the file, the tensor, what was expected and
/// what was found. After that no tensor reaches outside its file. Format: https://github.com/huggingface/safetensors (a header of at most
/// 100 MB; the tensors tile the data without a hole). Reading from several threads is safe.
class safetensors {
 public:
  struct entry {
    std::string name;
    std::string stored_as;  ///< the format as the file spells it: "BF16"
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, end = 0;  ///< bytes, in the data of its file
    std::size_t file = 0;             ///< which of the files
    tensor value;                     ///< type `same` when the library does not know `stored_as`; then `find` throws
  };
  using metadata_list = std::vector<std::pair<std::string, std::string>>;

  /// A file, an index (`*.json`), or a folder: its `model.safetensors`, else its one index, else its one file of tensors. Shards may have
  /// any name and lie in the index's folder or below it.
  explicit safetensors(std::string const& path);
  /// A whole file in memory, which must outlive this; `name` stands for the path in errors.
  explicit safetensors(list<const std::byte> bytes, std::string name = "memory");

  /// nullptr for an unknown name; throws `error` for a format that the library does not know. Valid as long as this, moves included.
  tensor const* find(std::string_view name) const;
  /// The file that holds a name, or that would: for error messages.
  std::string where(std::string_view name) const;
  /// A value of the file's `__metadata__` (of the first shard that has the key), or empty.
  std::string_view metadata(std::string_view key) const;

  /// All entries, as their files list them.
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }

 private:
  entry const* look_up(std::string_view name) const;
  void open_folder(std::string const& path);
  void open_index(std::string const& path);
  void open_file(std::string const& path);
  void add(list<const std::byte> bytes);
  void finish();

  std::string path_;
  std::vector<std::string> files_;
  std::vector<mapped_file> mappings_;
  std::vector<entry> entries_;
  std::vector<std::pair<std::string_view, std::size_t>> index_;  // (name, which entry), sorted
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
inline void write_safetensors(std::string const& path, std::vector<named_tensor> const& tensors,
                              safetensors::metadata_list const& metadata = {});

namespace detail {

inline constexpr std::uint64_t header_limit = 100'000'000;  // the reference implementation's
inline constexpr std::size_t dimension_limit = 64;
inline constexpr std::uint64_t largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

struct stored_format {
  std::string_view name;
  dtype type;
};
/// Of two names for one type the first is written.
inline constexpr stored_format stored_formats[] = {
    {"F64", dtype::fp64},     {"F32", dtype::fp32},     {"BF16", dtype::bf16},    {"F16", dtype::fp16},
    {"F8_E4M3", dtype::e4m3}, {"F8_E5M2", dtype::e5m2}, {"F8_E8M0", dtype::e8m0}, {"I64", dtype::int64},
    {"I32", dtype::int32},    {"I16", dtype::int16},    {"I8", dtype::int8},      {"U64", dtype::uint64},
    {"U32", dtype::uint32},   {"U16", dtype::uint16},   {"U8", dtype::uint8},     {"BOOL", dtype::uint8}};

[[noreturn]] inline void fail(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (auto const part : parts) text += part;
  throw error(text);
}

/// A name out of a file, fit for a message whatever it contains.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 200;
  std::string out = "'";
  for (char const c : text.substr(0, longest)) out += static_cast<unsigned char>(c) < 32 || c == 127 ? '?' : c;
  return out += text.size() > longest ? "...'" : "'";
}

inline std::string text_of(std::vector<std::int64_t> const& numbers) {
  std::string out = "[";
  for (auto const number : numbers) {
    if (out.size() > 1) out += ", ";
    out += std::to_string(number);
  }
  return out += ']';
}

/// (name, position) of all elements, sorted. One type for every list of names, so that the sort is compiled once.
using name_index = std::vector<std::pair<std::string_view, std::size_t>>;

inline void sort_names(name_index& names) { std::sort(names.begin(), names.end()); }

template <class Elements, class Name>
name_index index_of(Elements const& elements, Name Elements::value_type::*name) {
  name_index names;
  for (auto const& element : elements) names.emplace_back(element.*name, names.size());
  sort_names(names);
  return names;
}

/// The second of two equal names of an index, or nullptr.
inline name_index::value_type const* repeated(name_index const& names) {
  for (std::size_t i = 1; i < names.size(); ++i)
    if (names[i].first == names[i - 1].first) return &names[i];
  return nullptr;
}

/// nlohmann's events boiled down to four: a value (scalars, and the opening of an object or array), a key, a close, a syntax error. The
/// parser keeps its own stack, so that no nesting in a file exhausts ours. Virtual, so that the parser is compiled once.
enum class json_kind : std::uint8_t { null, boolean, integer, negative, fraction, string, object, array };

constexpr std::string_view name(json_kind kind) {
  constexpr std::string_view names[] = {"null",     "a boolean", "an integer", "a negative integer", "a number that is no 64-bit integer",
                                        "a string", "an object", "an array"};
  return names[static_cast<int>(kind)];
}

struct json_value {
  json_kind kind;
  std::uint64_t integer = 0;
  std::string* text = nullptr;

  bool opens() const { return kind == json_kind::object || kind == json_kind::array; }
};

struct json_rules {
  std::string const& where;
  int depth = 0;  ///< objects and arrays open around the next event

  explicit json_rules(std::string const& where_) : where(where_) {}
  virtual void value(json_value const& found) = 0;
  virtual void key(std::string& text) = 0;
  virtual void close() = 0;

  void expect(json_kind kind, json_value const& found, std::string_view what) const {
    if (found.kind != kind) fail({where, ": ", what, ": expected ", name(kind), ", found ", name(found.kind)});
  }

 protected:
  ~json_rules() = default;
};

struct json_events {
  json_rules& rules;

  bool pass(json_value const& value) {
    rules.value(value);
    rules.depth += value.opens();
    return true;
  }
  bool closed() {
    --rules.depth;
    rules.close();
    return true;
  }
  bool null() { return pass({json_kind::null}); }
  bool boolean(bool) { return pass({json_kind::boolean}); }
  bool number_integer(std::int64_t) { return pass({json_kind::negative}); }
  bool number_unsigned(std::uint64_t number) { return pass({json_kind::integer, number}); }
  bool number_float(double, std::string const&) { return pass({json_kind::fraction}); }
  bool string(std::string& text) { return pass({json_kind::string, 0, &text}); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return pass({json_kind::object}); }
  bool start_array(std::size_t) { return pass({json_kind::array}); }
  bool key(std::string& text) { return rules.key(text), true; }
  bool end_object() { return closed(); }
  bool end_array() { return closed(); }
  bool parse_error(std::size_t byte, std::string const&, nlohmann::json::exception const& reason) {
    fail({rules.where, ": expected JSON, found an error at byte ", std::to_string(byte), " of it: ", in_quotes(reason.what())});
  }
};

inline void read_json(list<const std::byte> bytes, json_rules& rules) {
  auto const* const text = reinterpret_cast<char const*>(bytes.data);
  // The parser takes a zero byte for the end of its input, and would overlook what follows.
  if (!bytes.empty() && std::memchr(text, 0, static_cast<std::size_t>(bytes.size)) != nullptr)
    fail({rules.where, ": expected JSON, found a zero byte in it"});
  auto events = json_events{rules};
  nlohmann::json::sax_parse(text, text + bytes.size, &events);
}

/// What a header may say. Its entries have ranges inside the data, of the size that shape and format ask for.
struct header_rules final : json_rules {
  std::int64_t data_bytes;
  std::vector<safetensors::entry> entries;
  safetensors::metadata_list metadata;

  header_rules(std::string const& path, std::int64_t bytes) : json_rules(path), data_bytes(bytes) {}

  void key(std::string& text) override {
    if (depth == 1) {
      in_metadata_ = text == "__metadata__";
      if (in_metadata_ && std::exchange(met_metadata_, true)) fail({where, ": expected '__metadata__' once, found it twice"});
      if (in_metadata_) return;
      entries.emplace_back().name = std::move(text);
      range_.clear();
      seen_ = 0;
    } else if (in_metadata_) {
      metadata.emplace_back(std::move(text), std::string());
    } else {
      field_ = static_cast<int>(std::find(std::begin(field_names), std::end(field_names), text) - std::begin(field_names));
      if (field_ == fields) fail_tensor({"expected the keys dtype, shape and data_offsets, found ", in_quotes(text)});
      if ((seen_ >> field_ & 1) != 0) fail_tensor({"expected ", field_names[field_], " once, found it twice"});
      seen_ |= 1 << field_;
    }
  }

  void value(json_value const& found) override {
    if (depth == 0) return;  // an object: read_header has looked
    if (in_metadata_) return metadata_value(found);
    if (depth == 1) return expect(json_kind::object, found, "tensor " + in_quotes(entries.back().name));
    auto const kind = depth == 3 ? json_kind::integer : field_ == dtype_field ? json_kind::string : json_kind::array;
    if (found.kind != kind)
      fail_tensor({"expected ", name(kind), depth == 3 ? " in " : " as ", field_names[field_], ", found ", name(found.kind)});
    if (kind == json_kind::string) entries.back().stored_as = std::move(*found.text);
    if (kind == json_kind::integer) number(found.integer);
  }

  void close() override {
    if (depth != 1) return;
    if (!in_metadata_) finish_tensor();
    in_metadata_ = false;
  }

 private:
  enum : int { dtype_field, shape_field, offsets_field, fields };
  static constexpr std::string_view field_names[] = {"dtype", "shape", "data_offsets"};

  [[noreturn]] void fail_tensor(std::initializer_list<std::string_view> parts) const {
    std::string text;
    for (auto const part : parts) text += part;
    fail({where, ": tensor ", in_quotes(entries.back().name), ": ", text});
  }

  void metadata_value(json_value const& found) {
    if (depth == 1) {
      if (found.kind != json_kind::null) expect(json_kind::object, found, "__metadata__");
      in_metadata_ = found.kind == json_kind::object;
    } else {
      expect(json_kind::string, found, "__metadata__, key " + in_quotes(metadata.back().first));
      metadata.back().second = std::move(*found.text);
    }
  }

  void number(std::uint64_t integer) {
    auto& shape = entries.back().shape;
    if (field_ == offsets_field) {
      range_.push_back(integer);
      if (range_.size() > 2) fail_tensor({"expected two data_offsets, found more"});
    } else {
      if (integer > largest) fail_tensor({"expected dimensions below 2^63, found ", std::to_string(integer)});
      if (shape.size() == dimension_limit) fail_tensor({"expected at most ", std::to_string(dimension_limit), " dimensions, found more"});
      shape.push_back(static_cast<std::int64_t>(integer));
    }
  }

  void finish_tensor() {
    for (int f = 0; f < fields; ++f)
      if ((seen_ >> f & 1) == 0) fail_tensor({"expected the keys dtype, shape and data_offsets, found no ", field_names[f]});
    if (range_.size() != 2) fail_tensor({"expected two data_offsets, found ", std::to_string(range_.size())});
    auto const offsets = "[" + std::to_string(range_[0]) + ", " + std::to_string(range_[1]) + "]";
    if (range_[0] > range_[1]) fail_tensor({"expected rising data_offsets, found ", offsets});
    if (range_[1] > static_cast<std::uint64_t>(data_bytes))
      fail_tensor({"expected data_offsets within the ", std::to_string(data_bytes), " bytes of data in the file, found ", offsets,
                   "; is it truncated?"});
    auto& made = entries.back();
    made.begin = static_cast<std::int64_t>(range_[0]);
    made.end = static_cast<std::int64_t>(range_[1]);

    for (auto const& format : stored_formats)
      if (format.name == made.stored_as) made.value.type = format.type;
    auto const known = made.value.type != dtype::same;
    auto bytes = known ? std::uint64_t(bits(made.value.type)) / 8 : 1;
    // A dimension of 0 hides no overflow of the others: whoever multiplies some of the dimensions is safe.
    for (auto const extent : made.shape) {
      auto const factor = static_cast<std::uint64_t>(std::max<std::int64_t>(extent, 1));
      if (bytes > largest / factor)
        fail_tensor({"expected a shape of less than 2^63 bytes, found ", text_of(made.shape), " ", in_quotes(made.stored_as)});
      bytes *= factor;
    }
    if (std::find(made.shape.begin(), made.shape.end(), 0) != made.shape.end()) bytes = 0;
    if (known && bytes != range_[1] - range_[0])
      fail_tensor({"expected ", std::to_string(bytes), " bytes for ", text_of(made.shape), " ", made.stored_as, ", found ",
                   std::to_string(range_[1] - range_[0]), " in data_offsets ", offsets});
  }

  bool in_metadata_ = false, met_metadata_ = false;
  int field_ = 0;                     // of the open tensor, whose key came last
  int seen_ = 0;                      // a bit a field
  std::vector<std::uint64_t> range_;  // its data_offsets
};

/// A header's entries. Their ranges tile `data_bytes`: no tensor lies in another, and no byte is hidden.
inline header_rules read_header(list<const std::byte> text, std::int64_t data_bytes, std::string const& path) {
  auto header = header_rules{path, data_bytes};
  if (text.empty() || text[0] != std::byte{'{'})
    fail({path, ": expected a header that begins with '{', found ", text.empty() ? "none" : "another byte"});
  read_json(text, header);
  if (auto const names = index_of(header.entries, &safetensors::entry::name); auto const* const twice = repeated(names))
    fail({path, ": tensor ", in_quotes(twice->first), ": expected it once, found it twice"});
  if (auto const keys = index_of(header.metadata, &safetensors::metadata_list::value_type::first); auto const* const twice = repeated(keys))
    fail({path, ": __metadata__, key ", in_quotes(twice->first), ": expected it once, found it twice"});

  std::vector<safetensors::entry const*> in_file;
  for (auto const& made : header.entries) in_file.push_back(&made);
  std::sort(in_file.begin(), in_file.end(), [](auto* a, auto* b) { return a->begin != b->begin ? a->begin < b->begin : a->end < b->end; });
  std::int64_t reached = 0;
  for (auto const* made : in_file) {
    if (made->begin != reached)
      fail({path, ": tensor ", in_quotes(made->name), ": expected its data at ", std::to_string(reached),
            ", where the tensors before it end, found it at ", std::to_string(made->begin),
            made->begin < reached ? ": they overlap" : ": a hole"});
    reached = made->end;
  }
  if (reached != data_bytes)
    fail({path, ": expected ", std::to_string(reached), " bytes of data, found ", std::to_string(data_bytes),
          ": bytes that belong to no tensor"});
  return header;
}

/// What an index may say: which file of its folder holds which tensor. Other keys than `weight_map` are skipped.
struct index_rules final : json_rules {
  std::vector<std::pair<std::string, std::string>> file_of;  // (tensor, file)

  explicit index_rules(std::string const& path) : json_rules(path) {}

  void key(std::string& text) override {
    if (depth == 1) {
      in_map_ = text == "weight_map";
      if (in_map_ && std::exchange(met_map_, true)) fail({where, ": expected 'weight_map' once, found it twice"});
    } else if (in_map_) {
      file_of.emplace_back(std::move(text), std::string());
    }
  }

  void value(json_value const& found) override {
    if (depth == 0) return expect(json_kind::object, found, "index");
    if (!in_map_) return;
    if (depth == 1) return expect(json_kind::object, found, "weight_map");
    auto& [tensor_name, file] = file_of.back();
    expect(json_kind::string, found, "file of tensor " + in_quotes(tensor_name));
    file = std::move(*found.text);
    if (!stays_inside(file))
      fail({where, ": tensor ", in_quotes(tensor_name), ": expected a file below the index's folder, found ", in_quotes(file)});
  }

  void close() override {}

 private:
  static bool stays_inside(std::string const& file) {
    if (file.empty() || file.find('\0') != std::string::npos || file.find('\\') != std::string::npos) return false;
    auto const path = std::filesystem::path(file);
    return path.is_relative() && std::find(path.begin(), path.end(), "..") == path.end();
  }

  bool in_map_ = false, met_map_ = false;
};

/// A JSON string. Bytes above 127 stay as they are: names are UTF-8.
inline std::string json_text(std::string_view text) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  for (char const c : text) {
    auto const code = static_cast<unsigned char>(c);
    if (code < 32) out.append("\\u00").append(1, digits[code / 16]).append(1, digits[code % 16]);
    else if (c == '"' || c == '\\') out.append(1, '\\').append(1, c);
    else out += c;
  }
  return out += '"';
}

}  // namespace detail

inline safetensors::safetensors(std::string const& path) : path_(path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) open_folder(path);
  else if (path.ends_with(".json")) open_index(path);
  else open_file(path);
  finish();
}

inline safetensors::safetensors(list<const std::byte> bytes, std::string name) : path_(std::move(name)) {
  files_.push_back(path_);
  add(bytes);
  finish();
}

inline void safetensors::open_folder(std::string const& path) {
  std::vector<std::string> files, indices;
  std::error_code reason;
  for (auto at = std::filesystem::directory_iterator(path, reason); !reason && at != std::filesystem::directory_iterator();
       at.increment(reason)) {
    auto file = at->path().string();
    if (at->path().filename() == "model.safetensors") return open_file(file);
    if (file.ends_with(".safetensors.index.json")) indices.push_back(std::move(file));
    else if (file.ends_with(".safetensors")) files.push_back(std::move(file));
  }
  if (reason) detail::fail({path, ": cannot be listed: ", reason.message()});
  if (indices.size() == 1) return open_index(indices[0]);
  if (indices.empty() && files.size() == 1) return open_file(files[0]);
  detail::fail({path, ": expected model.safetensors, or one index, or one file of tensors, found ", std::to_string(indices.size()),
                " indices and ", std::to_string(files.size()), " files of tensors"});
}

inline void safetensors::open_index(std::string const& path) {
  auto const content = mapped_file(path);
  auto const size = static_cast<std::uint64_t>(content.bytes().size);
  if (size > detail::header_limit)
    detail::fail({path, ": expected an index of at most ", std::to_string(detail::header_limit), " bytes, found ", std::to_string(size)});
  auto index = detail::index_rules{path};
  detail::read_json(content.bytes(), index);
  auto& file_of = index.file_of;
  if (file_of.empty()) detail::fail({path, ": expected a weight_map with tensors, found none"});
  using pair = std::pair<std::string, std::string>;
  if (auto const names = detail::index_of(file_of, &pair::first); auto const* const twice = detail::repeated(names))
    detail::fail({path, ": tensor ", detail::in_quotes(twice->first), ": expected it once, found it twice"});

  path_ = path;
  auto const folder = std::filesystem::path(path).parent_path();
  for (auto& [tensor_name, file] : file_of) file = (folder / file).string();
  for (auto const& [file, position] : detail::index_of(file_of, &pair::second))
    if (files_.empty() || files_.back() != file) open_file(std::string(file));
  finish();
  for (auto const& [tensor_name, file] : file_of) {
    auto const* const found = look_up(tensor_name);
    if (found == nullptr || files_[found->file] != file)
      detail::fail({path, ": tensor ", detail::in_quotes(tensor_name), ": expected it in ", file, ", found it in ",
                    found != nullptr ? files_[found->file] : "no shard"});
  }
}

inline void safetensors::open_file(std::string const& path) {
  files_.push_back(path);
  mappings_.emplace_back(path);
  add(mappings_.back().bytes());
}

inline void safetensors::add(list<const std::byte> bytes) {
  auto const& path = files_.back();
  std::uint64_t header_bytes = 0;
  auto const left = bytes.size - static_cast<std::int64_t>(sizeof header_bytes);
  if (left < 0)
    detail::fail({path, ": expected at least the 8 bytes of the header's length, found ",
                  bytes.empty() ? "an empty file" : std::to_string(bytes.size)});
  std::memcpy(&header_bytes, bytes.data, sizeof header_bytes);
  auto const found = std::to_string(header_bytes);
  if (header_bytes > detail::header_limit)
    detail::fail({path, ": expected a header of at most ", std::to_string(detail::header_limit), " bytes, found a length of ", found});
  if (header_bytes > static_cast<std::uint64_t>(left))
    detail::fail(
        {path, ": expected a header of ", found, " bytes, found ", std::to_string(left), " bytes left in the file; is it truncated?"});

  auto const header_size = static_cast<std::int64_t>(header_bytes);
  auto const* const text = bytes.data + sizeof header_bytes;
  auto header = detail::read_header({text, header_size}, left - header_size, path);
  for (auto& made : header.entries) {
    made.file = files_.size() - 1;
    made.value.data = text + header_size + made.begin;
    made.value.bytes = made.end - made.begin;
    entries_.push_back(std::move(made));
  }
  for (auto& pair : header.metadata) metadata_.push_back(std::move(pair));
}

inline void safetensors::finish() {
  for (auto& made : entries_) made.value.shape = made.shape;
  index_ = detail::index_of(entries_, &entry::name);
  if (auto const* const twice = detail::repeated(index_)) {
    auto const &first = entries_[twice[-1].second], &second = entries_[twice->second];
    detail::fail(
        {files_[second.file], ": tensor ", detail::in_quotes(second.name), ": expected it once, found it in ", files_[first.file], " too"});
  }
}

inline safetensors::entry const* safetensors::look_up(std::string_view name) const {
  auto const at = std::lower_bound(index_.begin(), index_.end(), std::pair(name, std::size_t{0}));
  return at != index_.end() && at->first == name ? &entries_[at->second] : nullptr;
}

inline tensor const* safetensors::find(std::string_view name) const {
  auto const* const found = look_up(name);
  if (found != nullptr && found->value.type == dtype::same)
    detail::fail({files_[found->file], ": tensor ", detail::in_quotes(name), ": expected a format that the library knows, found ",
                  detail::in_quotes(found->stored_as)});
  return found != nullptr ? &found->value : nullptr;
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

/// All elements of a stored tensor as `To`. A float `To` takes every stored format, rounded to nearest; an integer `To` takes integers that
/// fit. Throws `error` for an unknown name, a format or a value that cannot be had.
template <class To, tensor_source Source>
std::vector<To> read(Source const& source, std::string_view name) {
  auto const* const stored = source.find(name);
  auto const refuse = [&](std::string_view expected, std::string_view found) {
    detail::fail({source.where(name), ": tensor ", detail::in_quotes(name), ": expected ", expected, ", found ", found});
  };
  if (stored == nullptr) refuse("it in the file", "none of that name");
  std::vector<To> out;
  auto const convert = [&]<class From>(From) {
    auto const count = static_cast<std::size_t>(stored->bytes) / sizeof(From);
    out.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      From x;
      std::memcpy(static_cast<void*>(&x), stored->data + i * sizeof(From), sizeof(From));
      if constexpr (std::is_same_v<From, To>) {
        out[i] = x;
      } else if constexpr (std::is_integral_v<To>) {
        if constexpr (!std::is_integral_v<From>) return refuse("integers", moesaic::name(stored->type));
        else if (!std::in_range<To>(x)) return refuse("integers of " + std::to_string(8 * sizeof(To)) + " bits", std::to_string(x));
        else out[i] = static_cast<To>(x);
      } else if constexpr (std::is_floating_point_v<To> && std::is_arithmetic_v<From>) {
        out[i] = static_cast<To>(x);
      } else {
        out[i] = To(static_cast<float>(x));
      }
    }
  };
  switch (stored->type) {
    case dtype::fp64: convert(double{}); break;
    case dtype::fp32: convert(float{}); break;
    case dtype::bf16: convert(bf16{}); break;
    case dtype::fp16: convert(fp16{}); break;
    case dtype::e4m3: convert(e4m3{}); break;
    case dtype::e5m2: convert(e5m2{}); break;
    case dtype::e8m0: convert(e8m0{}); break;
    case dtype::int64: convert(std::int64_t{}); break;
    case dtype::int32: convert(std::int32_t{}); break;
    case dtype::int16: convert(std::int16_t{}); break;
    case dtype::int8: convert(std::int8_t{}); break;
    case dtype::uint64: convert(std::uint64_t{}); break;
    case dtype::uint32: convert(std::uint32_t{}); break;
    case dtype::uint16: convert(std::uint16_t{}); break;
    case dtype::uint8: convert(std::uint8_t{}); break;
    case dtype::int4:
    case dtype::mxfp4:
    case dtype::same: refuse("a format of whole bytes", moesaic::name(stored->type));
  }
  return out;
}

inline void write_safetensors(std::string const& path, std::vector<named_tensor> const& tensors,
                              safetensors::metadata_list const& metadata) {
  std::string header = "{";
  auto const key = [&](std::string_view text) {
    if (header.back() != '{') header += ',';
    header.append(detail::json_text(text)).append(1, ':');
  };
  if (!metadata.empty()) {
    key("__metadata__");
    header += '{';
    for (auto const& [name, text] : metadata) {
      key(name);
      header += detail::json_text(text);
    }
    header += '}';
  }
  std::vector<list<const std::byte>> parts(2);
  std::int64_t at = 0;
  for (auto const& written : tensors) {
    auto const* const format = std::find_if(std::begin(detail::stored_formats), std::end(detail::stored_formats),
                                            [&](auto const& f) { return f.type == written.type; });
    if (format == std::end(detail::stored_formats))
      detail::fail({path, ": tensor ", detail::in_quotes(written.name), ": expected a format that a file can hold, found ",
                    moesaic::name(written.type)});
    key(written.name);
    header.append("{\"dtype\":\"").append(format->name).append("\",\"shape\":").append(detail::text_of(written.shape));
    header.append(",\"data_offsets\":").append(detail::text_of({at, at + written.data.size})).append(1, '}');
    at += written.data.size;
    parts.push_back(written.data);
  }
  header += '}';
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');  // the data begins at a multiple of 64 bytes

  auto const length = static_cast<std::uint64_t>(header.size());
  parts[0] = {reinterpret_cast<std::byte const*>(&length), sizeof length};
  parts[1] = {reinterpret_cast<std::byte const*>(header.data()), static_cast<std::int64_t>(header.size())};
  detail::read_header(parts[1], at, path);
  replace_file(path, parts);
}

}  // namespace moesaic
