#pragma once

#include <string>
#include <vector>

#include "clients/cli/term.h"

namespace finetuned::cli {

// One line of a chart. `x` ascends; points that are not finite are gaps.
struct ChartSeries {
  std::string name;
  std::vector<double> x, y;
};

struct ChartOptions {
  int width = 80, height = 20;  // of everything, in characters; at least 30 x 6
  bool log_y = false;           // values that are not positive are left out
  std::string x_label;          // "step"
};

// A line chart in braille dots (2 x 4 to a character) with axes and a legend, as text lines. Series are told
// apart by colour, and by the legend's order; "no data" when nothing can be drawn. No I/O.
std::vector<std::string> DrawChart(const std::vector<ChartSeries>& series, const ChartOptions& options,
                                   const Style& style);

}  // namespace finetuned::cli
