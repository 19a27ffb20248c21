// Sums over the processes of a data-parallel run (torch.distributed's process groups: NCCL between GPUs, gloo between CPUs).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "engine/job/world.h"

namespace finetuned::train {

// A process of the run ended, left or fell silent. The others cannot go on without it.
class PeerLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Every process calls the same functions in the same order with tensors of the same size. Not thread safe.
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Begins to add a contiguous tensor over all processes, in place, behind what the current stream has been given so
  // far; the host does not wait. Every process gets the same bits.
  virtual void StartSum(const at::Tensor& tensor) = 0;
  // What the current stream is given from now on sees the sums that were begun.
  virtual void JoinSums() = 0;
  // The host waits until all sums are there. PeerLost after the timeout.
  virtual void AwaitSums() = 0;

  void Sum(const at::Tensor& tensor) {
    StartSum(tensor);
    JoinSums();
  }
};

// What a process does of work that all know; the whole of it without others (null).
job::Share ShareOf(const World* world);
// Nothing without others.
void SumOver(World* world, const at::Tensor& tensor);

// Waits for all processes. options.size > 1. PeerLost when they do not come within the timeout; std::exception when
// this build or machine has no way to talk to them.
std::unique_ptr<World> JoinWorld(const job::WorldOptions& options, at::Device device);

}  // namespace finetuned::train
