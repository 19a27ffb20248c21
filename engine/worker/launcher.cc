#include "engine/worker/launcher.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/job/train_spec.h"

namespace finetuned::worker {
namespace {

using job::Outcome;

const char* First(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  }
  return nullptr;
}

absl::StatusOr<int> Number(const char* what, const char* value) {
  int number = 0;
  if (value != nullptr && absl::SimpleAtoi(value, &number) && number >= 0) return number;
  return absl::InvalidArgumentError(
      absl::StrCat(what, value == nullptr ? " is not set" : absl::StrCat(" is \"", value, "\", which is no number"),
                   ", and WORLD_SIZE or SLURM_NTASKS says that there are several processes"));
}

// A port of the loopback address that nobody listens on now.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const bool bound = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (fd >= 0) close(fd);
  return bound ? ntohs(address.sin_port) : 0;
}

volatile std::sig_atomic_t g_children = 0;
pid_t g_pids[1024];

void PassOn(int signal) {
  for (int i = 0; i < g_children; ++i) {
    if (g_pids[i] > 0) kill(g_pids[i], signal);
  }
}

pid_t Start(const std::vector<std::string>& arguments, int rank, int processes, int port) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  setenv("RANK", absl::StrCat(rank).c_str(), 1);
  setenv("LOCAL_RANK", absl::StrCat(rank).c_str(), 1);
  setenv("WORLD_SIZE", absl::StrCat(processes).c_str(), 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", absl::StrCat(port).c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  execv("/proc/self/exe", argv.data());
  std::fprintf(stderr, "finetune-worker: cannot start process %d: %s\n", rank, std::strerror(errno));
  _exit(static_cast<int>(Outcome::kInternal));
}

int ExitCode(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : static_cast<int>(Outcome::kCheckpointed);  // killed: run again
}

}  // namespace

absl::StatusOr<job::WorldOptions> WorldFromEnvironment() {
  job::WorldOptions world;
  const char* size = First({"WORLD_SIZE", "SLURM_NTASKS"});
  if (size == nullptr || std::strcmp(size, "1") == 0) return world;
  const auto count = Number("WORLD_SIZE", size);
  if (!count.ok()) return count.status();
  const auto rank = Number("RANK", First({"RANK", "SLURM_PROCID"}));
  if (!rank.ok()) return rank.status();
  const auto port = Number("MASTER_PORT", First({"MASTER_PORT"}));
  if (!port.ok()) return port.status();
  const char* address = First({"MASTER_ADDR"});
  if (address == nullptr) {
    return absl::InvalidArgumentError(
        "MASTER_ADDR is not set; it is the machine of the first process (in a Slurm script: "
        "export MASTER_ADDR=$(scontrol show hostnames | head -n 1))");
  }
  if (*rank >= *count) return absl::InvalidArgumentError(absl::StrCat("RANK is ", *rank, " of ", *count, " processes"));
  world.size = *count;
  world.rank = *rank;
  world.master_address = address;
  world.master_port = *port;
  if (const char* seconds = First({"FINETUNED_PEER_TIMEOUT"})) {
    if (!absl::SimpleAtod(seconds, &world.timeout_seconds) || !(world.timeout_seconds > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("FINETUNED_PEER_TIMEOUT is \"", seconds, "\", not a number of seconds"));
    }
  }
  return world;
}

void SeeOnlyOwnGpu() {
  const char* local = First({"LOCAL_RANK", "SLURM_LOCALID"});
  int index = 0;
  if (local == nullptr || !absl::SimpleAtoi(local, &index)) return;
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) {
    setenv("CUDA_VISIBLE_DEVICES", absl::StrCat(index).c_str(), 1);
    return;
  }
  const std::vector<std::string> devices = absl::StrSplit(visible, ',');
  if (devices.size() > 1 && index < static_cast<int>(devices.size())) {
    setenv("CUDA_VISIBLE_DEVICES", devices[static_cast<size_t>(index)].c_str(), 1);
  }
}

int LaunchProcesses(const std::vector<std::string>& arguments, int processes) {
  const int port = FreePort();
  if (port == 0 || processes > static_cast<int>(std::size(g_pids))) {
    std::fprintf(stderr, "finetune-worker: %s\n", port == 0 ? "no port of 127.0.0.1 is free" : "too many processes");
    return static_cast<int>(Outcome::kBadConfig);
  }
  struct sigaction action {};
  action.sa_handler = PassOn;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  for (int rank = 0; rank < processes; ++rank) {
    g_pids[rank] = Start(arguments, rank, processes, port);
    g_children = rank + 1;
  }
  std::vector<int> codes;
  for (int left = processes; left > 0; --left) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0) break;
    std::replace(g_pids, g_pids + processes, pid, pid_t{0});
    codes.push_back(ExitCode(status));
    // The others would wait for one that failed until their timeout. One that left in order has no more part in anything.
    const bool left_in_order =
        WIFEXITED(status) && (codes.back() == 0 || codes.back() == static_cast<int>(Outcome::kCheckpointed));
    if (!left_in_order) PassOn(SIGKILL);
  }
  for (const Outcome bad : {Outcome::kBadConfig, Outcome::kBadData, Outcome::kInternal}) {
    if (std::find(codes.begin(), codes.end(), static_cast<int>(bad)) != codes.end()) return static_cast<int>(bad);
  }
  const bool all = std::all_of(codes.begin(), codes.end(), [](int code) { return code == 0; });
  return static_cast<int>(all ? Outcome::kDone : Outcome::kCheckpointed);
}

}  // namespace finetuned::worker
