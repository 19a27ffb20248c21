#include "clients/cli/term.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace finetuned::cli {

std::string FormatBytes(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  while (std::abs(bytes) >= 1000.0 && unit < 4) {
    bytes /= 1000.0;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f B", bytes) : absl::StrFormat("%.2f %s", bytes, units[unit]);
}

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0)) return "-";
  if (seconds < 10) return absl::StrFormat("%.1fs", seconds);
  const int64_t s = std::llround(seconds);
  if (s < 60) return absl::StrFormat("%ds", s);
  if (s < 3600) return absl::StrFormat("%dm %02ds", s / 60, s % 60);
  if (s < 86400) return absl::StrFormat("%dh %02dm", s / 3600, s / 60 % 60);
  return absl::StrFormat("%dd %02dh", s / 86400, s / 3600 % 24);
}

std::string FormatCount(double n) {
  std::string digits = absl::StrFormat("%.0f", n);
  const size_t start = digits[0] == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > start + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string FormatAgo(int64_t unix_seconds, int64_t now) {
  if (unix_seconds <= 0) return "-";
  return absl::StrCat(FormatDuration(static_cast<double>(std::max<int64_t>(0, now - unix_seconds))),
                      " ago");
}

std::string Sparkline(const std::vector<double>& values, int width) {
  static const char* const kLevels[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::vector<double> finite;
  for (double v : values) {
    if (std::isfinite(v)) finite.push_back(v);
  }
  if (finite.empty() || width <= 0) return "";
  const int n = static_cast<int>(std::min<size_t>(finite.size(), width));
  std::vector<double> buckets(n);
  for (int i = 0; i < n; ++i) {
    const size_t begin = finite.size() * i / n, end = finite.size() * (i + 1) / n;
    double sum = 0;
    for (size_t k = begin; k < end; ++k) sum += finite[k];
    buckets[i] = sum / static_cast<double>(end - begin);
  }
  const auto [lo, hi] = std::minmax_element(buckets.begin(), buckets.end());
  std::string out;
  for (double v : buckets) {
    const double t = *hi > *lo ? (v - *lo) / (*hi - *lo) : 0.5;
    out += kLevels[std::clamp(static_cast<int>(t * 8), 0, 7)];
  }
  return out;
}

std::string ProgressBar(double fraction, int width) {
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width);
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
  return bar;
}

int DisplayWidth(const std::string& text) {
  int width = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {
      ++width;
    }
  }
  return width;
}

std::string Clip(const std::string& line, int width) {
  if (DisplayWidth(line) <= width) return line;
  std::string out;
  int used = 0;
  bool styled = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\033') {
      while (i < line.size() && line[i] != 'm') out += line[i++];
      out += 'm';
      styled = true;
      continue;
    }
    const bool start = (static_cast<unsigned char>(line[i]) & 0xC0) != 0x80;
    if (start && ++used > width) break;
    out += line[i];
  }
  return styled ? out + "\033[0m" : out;
}

std::string Table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<int> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], DisplayWidth(row[c]));
  }
  std::string out;
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      out += row[c];
      if (c + 1 < row.size()) out += std::string(widths[c] - DisplayWidth(row[c]) + 2, ' ');
    }
    out += '\n';
  }
  return out;
}

std::string Printable(const std::string& text) {
  std::string out;
  for (unsigned char c : text) {
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) {
      absl::StrAppendFormat(&out, "\\x%02x", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  return out;
}

}  // namespace finetuned::cli
