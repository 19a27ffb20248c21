#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

// Named places at which a test kills the process, as kill -9 does: no destructor, no handler, no flush runs. Off, at the
// price of one relaxed load, unless the environment of the process has
//   FINETUNED_FAILPOINT=NAME[:COUNT[:FILE]]  die when NAME is passed for the COUNT-th time (default 1). FILE is made
//                                            before, and with a FILE that exists nothing happens: once for all processes
//   FINETUNED_FAILPOINT_LOG=FILE             append the name of every place that is passed, one a line
// The variables are read here and not in server/config: the worker has them too, and no setting leads to them.
namespace finetuned::failpoint {

// What the environment asks for; a test that forks may write it itself.
struct State {
  std::atomic<bool> armed{false};
  std::string name, once_file, log_file;
  std::atomic<int> left{1};
};

inline void Arm(State* state, std::string_view wanted, std::string_view log_file) {
  const size_t first = wanted.find(':');
  const size_t second = first == std::string_view::npos ? first : wanted.find(':', first + 1);
  state->name = wanted.substr(0, first);
  state->left = first == std::string_view::npos ? 1 : std::atoi(std::string(wanted.substr(first + 1)).c_str());
  state->once_file = second == std::string_view::npos ? "" : std::string(wanted.substr(second + 1));
  state->log_file = log_file;
  state->armed = !wanted.empty() || !log_file.empty();
}

inline State& TheState() {
  static State* const state = [] {
    auto* made = new State;
    const char* wanted = std::getenv("FINETUNED_FAILPOINT");
    const char* log = std::getenv("FINETUNED_FAILPOINT_LOG");
    Arm(made, wanted == nullptr ? "" : wanted, log == nullptr ? "" : log);
    return made;
  }();
  return *state;
}

inline void Log(const State& state, std::string line) {
  const int fd = open(state.log_file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  line += '\n';
  if (fd >= 0 && write(fd, line.data(), line.size()) < 0) std::abort();
  if (fd >= 0) close(fd);
}

// `stage` is appended to the name: places that are reached through one function.
inline void Reach(std::string_view name, std::string_view stage = "") {
  State& state = TheState();
  const std::string full = std::string(name) + std::string(stage);
  if (!state.log_file.empty()) Log(state, full);
  if (full != state.name || state.left.fetch_sub(1) != 1) return;
  if (!state.once_file.empty()) {
    const int fd = open(state.once_file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return;
    close(fd);
  }
  kill(getpid(), SIGKILL);
}

}  // namespace finetuned::failpoint

// FT_FAILPOINT("store.open.migrated"): dots go from the part of the program to the moment.
#define FT_FAILPOINT(...)                                                                       \
  do {                                                                                          \
    if (::finetuned::failpoint::TheState().armed.load(std::memory_order_relaxed)) {             \
      ::finetuned::failpoint::Reach(__VA_ARGS__);                                               \
    }                                                                                           \
  } while (0)
