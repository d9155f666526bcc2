// Points and shades as SVG: small drawings that any browser shows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace demo {

namespace svg {

inline std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}
inline std::string escaped(std::string const& words) {
  std::string out;
  for (char const c : words) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '\'') out += "&apos;";
    else out += c;
  }
  return out;
}
inline std::string text(double x, double y, std::string const& words, const char* anchor = "start", int size = 12, const char* more = "") {
  return "<text x='" + number(x) + "' y='" + number(y) + "' font-size='" + std::to_string(size) + "' text-anchor='" + anchor + "' " + more + ">" +
         escaped(words) + "</text>\n";
}
inline std::string line(double x0, double y0, double x1, double y1, const char* colour, double width = 1) {
  return "<line x1='" + number(x0) + "' y1='" + number(y0) + "' x2='" + number(x1) + "' y2='" + number(y1) + "' stroke='" + colour + "' stroke-width='" +
         number(width) + "'/>\n";
}
inline void write(std::string const& path, int width, int height, std::string const& body) {
  std::ofstream file(path);
  file << "<svg xmlns='http://www.w3.org/2000/svg' width='" << width << "' height='" << height << "' viewBox='0 0 " << width << ' ' << height
       << "' font-family='sans-serif'>\n<rect width='100%' height='100%' fill='white'/>\n"
       << body << "</svg>\n";
  if (!file) throw std::runtime_error(path + ": could not be written");
}

}  // namespace svg

/// Round numbers in [low, high], about five of them.
inline std::vector<double> ticks(double low, double high) {
  auto const rough = (high - low) / 5, unit = std::pow(10.0, std::floor(std::log10(rough)));
  auto const step = unit * (rough / unit < 1.5 ? 1 : rough / unit < 3.5 ? 2 : rough / unit < 7.5 ? 5 : 10);
  std::vector<double> all;
  for (auto x = std::ceil(low / step) * step; x <= high; x += step) all.push_back(std::fabs(x) < step / 2 ? 0 : x);
  return all;
}

struct point {
  double x, y;
  std::string label = {};
};
struct series {
  std::string name;
  std::vector<point> points;
  bool joined = true;
};

/// Series over two axes; x may be logarithmic. Labels stand beside their points.
inline void plot(std::string const& path, std::string const& title, std::string const& x_title, std::string const& y_title, std::vector<series> const& all,
                 bool logarithmic_x = false) {
  constexpr int width = 760, height = 460, left = 70, right = 190, top = 40, bottom = 55;
  constexpr const char* colours[] = {"#1f5fa8", "#c4502a", "#2f8f4e", "#8a4fa0", "#b08a1e", "#4a4a4a", "#2aa3b5", "#d06aa8", "#7c8f2a"};
  auto const scale_x = [&](double x) { return logarithmic_x ? std::log10(x) : x; };
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (auto const& s : all)
    for (auto const& p : s.points) {
      x0 = std::min(x0, scale_x(p.x)), x1 = std::max(x1, scale_x(p.x));
      y0 = std::min(y0, p.y), y1 = std::max(y1, p.y);
    }
  if (x0 > x1) return;                                                        // nothing to draw
  auto const pad_x = (x1 - x0) * 0.05 + 1e-12, pad_y = (y1 - y0) * 0.08 + 1e-12;
  x0 -= pad_x, x1 += pad_x, y0 -= pad_y, y1 += pad_y;
  auto const at_x = [&](double x) { return left + (scale_x(x) - x0) / (x1 - x0) * (width - left - right); };
  auto const at_y = [&](double y) { return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom); };

  std::string body = svg::text(left, 22, title, "start", 15);
  for (auto const x : ticks(x0, x1)) {
    auto const px = left + (x - x0) / (x1 - x0) * (width - left - right);
    body += svg::line(px, top, px, height - bottom, "#e4e4e4") + svg::text(px, height - bottom + 18, svg::number(logarithmic_x ? std::pow(10.0, x) : x), "middle", 11);
  }
  for (auto const y : ticks(y0, y1)) body += svg::line(left, at_y(y), width - right, at_y(y), "#e4e4e4") + svg::text(left - 8, at_y(y) + 4, svg::number(y), "end", 11);
  body += svg::text((left + width - right) / 2.0, height - 12, x_title, "middle");
  body += svg::text(16, (top + height - bottom) / 2.0, y_title, "middle", 12, ("transform='rotate(-90 16 " + std::to_string((top + height - bottom) / 2) + ")'").c_str());
  int which = 0;
  for (auto const& s : all) {
    auto const* const colour = colours[which % static_cast<int>(std::size(colours))];
    for (std::size_t i = 0; i < s.points.size(); ++i) {
      auto const& p = s.points[i];
      if (s.joined && i > 0) body += svg::line(at_x(s.points[i - 1].x), at_y(s.points[i - 1].y), at_x(p.x), at_y(p.y), colour, 1.5);
      body += "<circle cx='" + svg::number(at_x(p.x)) + "' cy='" + svg::number(at_y(p.y)) + "' r='4' fill='" + colour + "'/>\n";
      if (!p.label.empty()) body += svg::text(at_x(p.x) + 6, at_y(p.y) + (i % 2 == 0 ? -6 : 14), p.label, "start", 10);   // neighbours dodge
    }
    body += "<circle cx='" + std::to_string(width - right + 20) + "' cy='" + std::to_string(top + 6 + 20 * which) + "' r='4' fill='" + colour + "'/>\n";
    body += svg::text(width - right + 30, top + 10 + 20 * which, s.name);
    ++which;
  }
  svg::write(path, width, height, body);
}

/// Shades of values [rows][columns], 0 white to the largest dark; a gap before every row whose name begins a group.
inline void heat_map(std::string const& path, std::string const& title, std::vector<std::string> const& row_names, std::vector<std::vector<double>> const& values,
                     std::size_t rows_a_group) {
  constexpr int cell = 18, left = 170, top = 62;
  auto const columns = values.empty() ? 0 : static_cast<int>(values.front().size());
  double largest = 1e-300;
  for (auto const& r : values)
    for (auto const v : r) largest = std::max(largest, v);
  std::string body = svg::text(12, 24, title, "start", 15);
  for (int e = 0; e < columns; ++e) body += svg::text(left + cell * e + cell / 2.0, top - 6, std::to_string(e), "middle", 9);
  int y = top;
  for (std::size_t r = 0; r < values.size(); ++r) {
    if (r > 0 && r % rows_a_group == 0) y += 8;
    body += svg::text(left - 8, y + 13, row_names[r], "end", 12);
    for (int e = 0; e < columns; ++e) {
      auto const share = values[r][static_cast<std::size_t>(e)] / largest;
      char colour[16];
      std::snprintf(colour, sizeof colour, "#%02x%02x%02x", static_cast<int>(255 - 224 * share), static_cast<int>(255 - 160 * share), static_cast<int>(255 - 87 * share));
      body += "<rect x='" + std::to_string(left + cell * e) + "' y='" + std::to_string(y) + "' width='" + std::to_string(cell - 1) + "' height='" +
              std::to_string(cell - 1) + "' fill='" + colour + "'><title>" + svg::escaped(row_names[r]) + ", expert " + std::to_string(e) + ": " +
              svg::number(values[r][static_cast<std::size_t>(e)]) + "</title></rect>\n";
    }
    y += cell;
  }
  svg::write(path, left + cell * columns + 20, y + 20, body);
}

}  // namespace demo
