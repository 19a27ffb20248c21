#include "server/config/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace finetuned::config {
namespace {

namespace fs = std::filesystem;

// An open file; closed at the end.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

int OpenAt2(int folder, const std::string& relative, uint64_t resolve) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int tries = 0; tries < 16; ++tries) {  // EAGAIN: something was renamed meanwhile
    const long fd = syscall(SYS_openat2, folder, relative.c_str(), &how, sizeof how);
    if (fd >= 0 || errno != EAGAIN) return static_cast<int>(fd);
  }
  return -1;
}

bool KernelKnows() {
  static const bool knows = [] {
    const Fd folder(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    return Fd(OpenAt2(folder.get(), ".", 0)).get() >= 0;
  }();
  return knows;
}

// Does `relative`, seen from `root`, lead to something below it?
bool LeadsBeneath(bool kernel, const Fd& folder, const fs::path& root, const fs::path& relative, bool links) {
  if (kernel) return Fd(OpenAt2(folder.get(), relative.string(), links ? 0 : RESOLVE_NO_SYMLINKS)).get() >= 0;
  std::error_code error;
  const fs::path real = fs::canonical(root / relative, error);
  return !error && real.string().starts_with(root.string() + "/");
}

}  // namespace

std::optional<std::string> ResolveBeneathUsing(bool kernel, const std::string& root, const std::string& path) {
  std::error_code error, root_error;
  const fs::path base = fs::canonical(root, root_error);
  const fs::path real = fs::canonical(path, error);
  if (error || root_error || !real.string().starts_with(base.string() + "/")) return std::nullopt;
  const fs::path relative = real.lexically_relative(base);
  const Fd folder(open(base.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  // `relative` has no links; one that appeared since leads nowhere.
  if (!LeadsBeneath(kernel, folder, base, relative, /*links=*/false)) return std::nullopt;
  if (!fs::is_directory(real, error)) return real.string();
  for (const auto& entry : fs::directory_iterator(real, error)) {
    if (!LeadsBeneath(kernel, folder, base, relative / entry.path().filename(), /*links=*/true)) return std::nullopt;
  }
  return error ? std::nullopt : std::optional<std::string>(real.string());
}

std::optional<std::string> ResolveBeneath(const std::string& root, const std::string& path) {
  return ResolveBeneathUsing(KernelKnows(), root, path);
}

}  // namespace finetuned::config
