#include "clients/cli/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace finetuned::cli {
namespace {

std::atomic<bool> g_interrupted{false};

void OnInterrupt(int) { g_interrupted = true; }

// Keys one by one and unseen, on the alternate screen without a cursor; all as before at the end.
class FullScreen {
 public:
  FullScreen() : keys_(tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      raw.c_cc[VMIN] = 0;
      raw.c_cc[VTIME] = 0;
      tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    std::cout << "\033[?1049h\033[?25l" << std::flush;
  }
  ~FullScreen() {
    std::cout << "\033[?25h\033[?1049l" << std::flush;
    if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

  void Draw(const std::vector<std::string>& lines, int rows) {
    std::string out = "\033[H";
    const size_t shown = std::min(lines.size(), static_cast<size_t>(std::max(1, rows)));
    for (size_t i = 0; i < shown; ++i) absl::StrAppend(&out, i > 0 ? "\r\n" : "", lines[i], "\033[K");
    std::cout << out << "\033[J" << std::flush;
  }

  // True when q was pressed; returns early on it, on Ctrl-C and when the window changes its size.
  bool WaitForQuit(double seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
    const TerminalSize size = GetTerminalSize();
    while (!g_interrupted && std::chrono::steady_clock::now() < end) {
      pollfd fd = {keys_ ? STDIN_FILENO : -1, POLLIN, 0};
      const bool ready = poll(&fd, 1, 100) > 0;
      char key = 0;
      if (ready && read(STDIN_FILENO, &key, 1) == 1 && (key == 'q' || key == 'Q')) return true;
      const TerminalSize now = GetTerminalSize();
      if (now.columns != size.columns || now.rows != size.rows) return false;
    }
    return false;
  }

 private:
  termios before_ = {};
  const bool keys_;
};

}  // namespace

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) != 0; }

Style StdoutStyle() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  const bool refused = (no_color != nullptr && *no_color != '\0') || (term != nullptr && std::string(term) == "dumb");
  return Style{StdoutIsTerminal() && !refused};
}

TerminalSize GetTerminalSize() {
  winsize size{};
  TerminalSize out;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return out;
  if (size.ws_col > 20) out.columns = size.ws_col;
  if (size.ws_row > 4) out.rows = size.ws_row;
  return out;
}

InterruptFlag::InterruptFlag() {
  g_interrupted = false;
  std::signal(SIGINT, OnInterrupt);
}
InterruptFlag::~InterruptFlag() { std::signal(SIGINT, SIG_DFL); }
bool InterruptFlag::Raised() { return g_interrupted; }

void Screen::Redraw(const std::vector<std::string>& lines, const std::string& note) {
  std::string out;
  if (drawn_ > 0) absl::StrAppend(&out, "\033[", drawn_, "A\r\033[J");
  if (!note.empty()) absl::StrAppend(&out, note, "\n");
  for (const std::string& line : lines) absl::StrAppend(&out, line, "\n");
  drawn_ = static_cast<int>(lines.size());
  std::cout << out << std::flush;
}

ExitCode RunLive(double seconds, const std::string& instead,
                 const std::function<std::vector<std::string>(TerminalSize)>& frame) {
  if (!StdoutIsTerminal()) throw CommandError{kUsage, absl::StrCat("a live view needs a terminal\n  try: ", instead)};
  const InterruptFlag interrupts;
  const Style style = StdoutStyle();
  std::vector<std::string> lines;
  bool quit = false;
  {
    FullScreen screen;
    while (!quit && !InterruptFlag::Raised()) {
      const TerminalSize size = GetTerminalSize();
      try {
        lines = frame(size);
        screen.Draw(lines, size.rows);
      } catch (const CommandError& e) {
        if (e.code == kUsage) throw;
        std::vector<std::string> message = {style.Red("The daemon does not answer; trying again. q leaves.")};
        for (absl::string_view line : absl::StrSplit(e.message, '\n')) message.emplace_back(line);
        screen.Draw(message, size.rows);
      }
      quit = screen.WaitForQuit(seconds);
    }
  }
  for (const std::string& line : lines) std::cout << line << "\n";
  return quit ? kOk : kInterrupted;
}

}  // namespace finetuned::cli
