#pragma once

#include <functional>
#include <string>
#include <vector>

#include "clients/cli/client.h"
#include "clients/cli/term.h"

// The terminal of this process: what it is, how large, keys and interrupts.
namespace finetuned::cli {

bool StdoutIsTerminal();
// Colours when standard output is a terminal that has them and NO_COLOR is not set (no-color.org).
Style StdoutStyle();

struct TerminalSize {
  int columns = 80, rows = 24;
};
TerminalSize GetTerminalSize();

// While one lives, SIGINT does not end the process but sets a flag.
class InterruptFlag {
 public:
  InterruptFlag();
  ~InterruptFlag();
  static bool Raised();
};

// Draws a block of lines over the one drawn before, on the normal screen.
class Screen {
 public:
  // `note`, when not empty, is left above the block for good.
  void Redraw(const std::vector<std::string>& lines, const std::string& note);

 private:
  int drawn_ = 0;
};

// A full-screen view of `frame`, drawn every `seconds` until q (kOk) or Ctrl-C (kInterrupted); the last
// frame stays on the normal screen. An error of a frame is shown and the next one tried, since the daemon
// may come back; kUsage errors end the view. CommandError(kUsage) when standard output is no terminal;
// `instead` tells what to use then.
ExitCode RunLive(double seconds, const std::string& instead,
                 const std::function<std::vector<std::string>(TerminalSize)>& frame);

}  // namespace finetuned::cli
