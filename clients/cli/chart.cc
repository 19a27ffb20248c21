#include "clients/cli/chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace finetuned::cli {
namespace {

constexpr int kDotsX = 2, kDotsY = 4;
constexpr int kAxisWidth = 10;  // "1.2345e+01"
// Bits of the dots of U+2800, by row and column.
constexpr unsigned char kDots[kDotsY][kDotsX] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return low > high; }
  // A flat line lies in the middle.
  void Widen() {
    if (low < high) return;
    const double margin = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= margin;
    high += margin;
  }
  double Place(double v) const { return (v - low) / (high - low); }
};

std::string Colored(size_t index, const std::string& text, const Style& style) {
  switch (index % 5) {
    case 0: return style.Cyan(text);
    case 1: return style.Yellow(text);
    case 2: return style.Green(text);
    case 3: return style.Red(text);
    default: return style.Bold(text);
  }
}

class Canvas {
 public:
  Canvas(int columns, int rows)
      : columns_(columns), rows_(rows), dots_(static_cast<size_t>(columns) * rows, 0), owner_(dots_.size(), 0) {}

  int dots_x() const { return columns_ * kDotsX; }
  int dots_y() const { return rows_ * kDotsY; }

  void Dot(int x, int y, size_t series) {
    if (x < 0 || y < 0 || x >= dots_x() || y >= dots_y()) return;
    const size_t cell = static_cast<size_t>(y / kDotsY) * columns_ + x / kDotsX;
    dots_[cell] |= kDots[y % kDotsY][x % kDotsX];
    owner_[cell] = series;
  }

  void Line(int x0, int y0, int x1, int y1, size_t series) {
    const int steps = std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1});
    for (int i = 0; i <= steps; ++i) {
      Dot(x0 + static_cast<int>(std::lround(double(x1 - x0) * i / steps)),
          y0 + static_cast<int>(std::lround(double(y1 - y0) * i / steps)), series);
    }
  }

  std::string Row(int row, const Style& style) const {
    std::string out;
    for (int c = 0; c < columns_; ++c) {
      const size_t cell = static_cast<size_t>(row) * columns_ + c;
      if (dots_[cell] == 0) {
        out += ' ';
        continue;
      }
      // U+2800 + bits, in UTF-8.
      const std::string text = {'\xE2', static_cast<char>(0xA0 | (dots_[cell] >> 6)),
                                static_cast<char>(0x80 | (dots_[cell] & 0x3F))};
      out += Colored(owner_[cell], text, style);
    }
    return out;
  }

 private:
  const int columns_, rows_;
  std::vector<unsigned char> dots_;
  std::vector<size_t> owner_;  // the series drawn last
};

double Scaled(double y, bool log_y) { return log_y ? (y > 0 ? std::log10(y) : std::nan("")) : y; }

void DrawSeries(const ChartSeries& s, size_t index, bool log_y, const Range& x, const Range& y, Canvas* canvas) {
  bool pen_down = false;
  int last_x = 0, last_y = 0;
  for (size_t i = 0; i < s.x.size() && i < s.y.size(); ++i) {
    const double value = Scaled(s.y[i], log_y);
    if (!std::isfinite(value) || !std::isfinite(s.x[i])) {
      pen_down = false;
      continue;
    }
    const int px = static_cast<int>(std::lround(x.Place(s.x[i]) * (canvas->dots_x() - 1)));
    const int py = static_cast<int>(std::lround((1 - y.Place(value)) * (canvas->dots_y() - 1)));
    canvas->Line(pen_down ? last_x : px, pen_down ? last_y : py, px, py, index);
    last_x = px;
    last_y = py;
    pen_down = true;
  }
}

std::string Legend(const std::vector<ChartSeries>& series, const Style& style) {
  std::string out(kAxisWidth + 2, ' ');
  for (size_t i = 0; i < series.size(); ++i) {
    const ChartSeries& s = series[i];
    const double last = s.y.empty() ? std::nan("") : s.y.back();
    absl::StrAppend(&out, i > 0 ? "   " : "", Colored(i, "━━", style), " ", s.name, absl::StrFormat(" %.5g", last));
  }
  return out;
}

}  // namespace

std::vector<std::string> DrawChart(const std::vector<ChartSeries>& series, const ChartOptions& options,
                                   const Style& style) {
  Range x, y;
  for (const ChartSeries& s : series) {
    for (size_t i = 0; i < s.x.size() && i < s.y.size(); ++i) {
      const double value = Scaled(s.y[i], options.log_y);
      if (!std::isfinite(value) || !std::isfinite(s.x[i])) continue;
      x.Add(s.x[i]);
      y.Add(value);
    }
  }
  if (x.empty()) return {"no data"};
  const double first = x.low, last = x.high;
  x.Widen();
  y.Widen();
  const int columns = std::max(30, options.width) - kAxisWidth - 2;
  const int rows = std::max(6, options.height) - 3;
  Canvas canvas(columns, rows);
  for (size_t i = 0; i < series.size(); ++i) DrawSeries(series[i], i, options.log_y, x, y, &canvas);

  std::vector<std::string> lines;
  for (int r = 0; r < rows; ++r) {
    // A label at the top, the middle and the bottom.
    std::string label;
    if (r == 0 || r == rows - 1 || r == rows / 2) {
      const double at = y.high - (y.high - y.low) * r / std::max(1, rows - 1);
      label = absl::StrFormat("%.4g", options.log_y ? std::pow(10, at) : at);
    }
    lines.push_back(absl::StrCat(std::string(std::max<int>(0, kAxisWidth - static_cast<int>(label.size())), ' '),
                                 label.empty() ? " │" : style.Dim(label) + " ┤", canvas.Row(r, style)));
  }
  std::string axis(kAxisWidth + 1, ' ');
  axis += "└";
  for (int c = 0; c < columns; ++c) axis += "─";
  lines.push_back(axis);
  const std::string left = absl::StrFormat("%.6g", first);
  const std::string right = absl::StrFormat("%s %.6g", options.x_label, last);
  const int gap = std::max<int>(1, columns - static_cast<int>(left.size()) - DisplayWidth(right));
  lines.push_back(absl::StrCat(std::string(kAxisWidth + 2, ' '), style.Dim(left), std::string(gap, ' '),
                               style.Dim(right)));
  lines.push_back(Legend(series, style));
  return lines;
}

}  // namespace finetuned::cli
