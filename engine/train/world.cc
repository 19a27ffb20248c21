#include "engine/train/world.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"

namespace finetuned::train {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLook{1};

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

class ProcessGroup : public World {
 public:
  ProcessGroup(const job::WorldOptions& options, at::Device device)
      : options_(options), timeout_(static_cast<int64_t>(options.timeout_seconds * 1000)) {
    Guard("meeting the other processes", [&] { Connect(device); });
    // The first exchange opens the connections: who is not there shows now.
    Sum(at::ones({1}, at::TensorOptions().device(device).dtype(at::kFloat)));
    AwaitSums();
  }

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  void StartSum(const at::Tensor& tensor) override {
    Guard("adding up", [&] {
      std::vector<at::Tensor> tensors = {tensor};
      started_.push_back(group_->allreduce(tensors));
    });
  }

  void JoinSums() override {
    // On a GPU this makes the stream wait, on the CPU the host.
    Guard("adding up", [&] {
      for (; joined_ < started_.size(); ++joined_) started_[joined_]->wait();
    });
  }

  void AwaitSums() override {
    JoinSums();
    const auto deadline = steady_clock::now() + timeout_;
    for (const auto& work : started_) {
      while (!Completed(*work)) {
        if (steady_clock::now() > deadline) Lost("adding up", absl::StrCat("no answer in ", options_.timeout_seconds, " s"));
        std::this_thread::sleep_for(kLook);
      }
    }
    started_.clear();
    joined_ = 0;
  }

 private:
  void Connect(at::Device device) {
    c10d::TCPStoreOptions store_options;
    store_options.port = static_cast<uint16_t>(options_.master_port);
    store_options.isServer = options_.rank == 0;
    store_options.numWorkers = options_.size;
    store_options.timeout = timeout_;
    store_ = c10::make_intrusive<c10d::TCPStore>(options_.master_address, store_options);
    if (!device.is_cuda()) {
      auto gloo = c10d::ProcessGroupGloo::Options::create(timeout_);
      // One machine needs no name that resolves; several find each other by theirs.
      gloo->devices = {options_.master_address == "127.0.0.1"
                           ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                           : c10d::ProcessGroupGloo::createDefaultDevice()};
      group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store_, options_.rank, options_.size, gloo);
      return;
    }
#ifdef USE_C10D_NCCL
    // A lost peer is found by AwaitSums, which ends the run in order; the watchdog would end the process.
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/1);
    auto nccl = c10d::ProcessGroupNCCL::Options::create();
    nccl->timeout = timeout_;
    group_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(store_, options_.rank, options_.size, nccl);
#else
    TORCH_CHECK(false, "this build has no NCCL, which processes on GPUs need");
#endif
  }

  bool Completed(c10d::Work& work) {
    bool completed = false;
    Guard("adding up", [&] {
      completed = work.isCompleted();
      if (completed && work.exception()) std::rethrow_exception(work.exception());
    });
    return completed;
  }

  template <typename F>
  void Guard(const char* doing, F&& f) {
    try {
      f();
    } catch (const PeerLost&) {
      throw;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::Error& e) {
      Lost(doing, FirstLine(e.what_without_backtrace()));
    } catch (const std::exception& e) {
      Lost(doing, FirstLine(e.what()));
    }
  }

  [[noreturn]] void Lost(const char* doing, const std::string& why) {
    throw PeerLost(absl::StrCat("process ", options_.rank, " of ", options_.size, " lost another while ", doing, ": ", why));
  }

  const job::WorldOptions options_;
  const milliseconds timeout_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::Backend> group_;
  std::vector<c10::intrusive_ptr<c10d::Work>> started_;
  size_t joined_ = 0;  // of started_
};

}  // namespace

job::Share ShareOf(const World* world) {
  return world == nullptr ? job::Share{} : job::Share{world->rank(), world->size()};
}

void SumOver(World* world, const at::Tensor& tensor) {
  if (world != nullptr) world->Sum(tensor);
}

std::unique_ptr<World> JoinWorld(const job::WorldOptions& options, at::Device device) {
  return std::make_unique<ProcessGroup>(options, device);
}

}  // namespace finetuned::train
