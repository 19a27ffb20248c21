#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Text for terminals: sizes, durations, sparklines, tables. No I/O.
namespace finetuned::cli {

std::string FormatBytes(double bytes);        // "3.21 GB" (decimal)
std::string FormatDuration(double seconds);   // "2m 10s", "1h 03m", "0.4s"
std::string FormatCount(double n);            // "1,234"
std::string FormatAgo(int64_t unix_seconds, int64_t now);  // "3m ago"

// One character per bucket of `values`, at most `width`, scaled between their minimum and maximum.
std::string Sparkline(const std::vector<double>& values, int width);
std::string ProgressBar(double fraction, int width);

// Columns aligned to the widest cell; the first row is the header.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// Number of terminal columns a UTF-8 text takes (one per code point, escape sequences not counted).
int DisplayWidth(const std::string& text);

// Cuts a line to `width` columns, keeping escape sequences whole.
std::string Clip(const std::string& line, int width);

// Control characters other than newline and tab replaced, so that text from files and models cannot
// steer the terminal.
std::string Printable(const std::string& text);

// Escape sequences, or nothing when colours are off.
struct Style {
  bool color = false;
  std::string Bold(const std::string& s) const { return Wrap("1", s); }
  std::string Dim(const std::string& s) const { return Wrap("2", s); }
  std::string Green(const std::string& s) const { return Wrap("32", s); }
  std::string Yellow(const std::string& s) const { return Wrap("33", s); }
  std::string Red(const std::string& s) const { return Wrap("31", s); }
  std::string Cyan(const std::string& s) const { return Wrap("36", s); }

 private:
  std::string Wrap(const char* code, const std::string& s) const {
    return color ? "\033[" + std::string(code) + "m" + s + "\033[0m" : s;
  }
};

}  // namespace finetuned::cli
