#include "engine/worker/serve.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "engine/job/failpoint.h"
#include "engine/train/measure_device.h"
#include "engine/train/run.h"
#include "engine/worker/device_info.h"
#include "engine/worker/device_measurement.h"
#include "engine/worker/link.h"
#include "engine/worker/run_tool.h"
#include "engine/worker/sample.h"
#include "engine/worker/spec_from_proto.h"

namespace finetuned::worker {
namespace {

std::string ReadToken(int fd) {
  std::string token;
  char buffer[256];
  ssize_t n;
  while (fd >= 0 && (n = read(fd, buffer, sizeof buffer)) > 0) token.append(buffer, static_cast<size_t>(n));
  if (fd >= 0) close(fd);
  return token;
}

internal::WorkerHello Hello(const ServeOptions& options,
                            const std::optional<plan::DeviceConstants>& measured) {
  const DeviceInfo device = QueryDevice(options.device);
  internal::WorkerHello hello;
  hello.set_token(ReadToken(options.token_fd));
  hello.set_pid(getpid());
  hello.set_version(FINETUNED_VERSION);
  hello.set_device(device.name);
  hello.set_device_total_bytes(device.total_bytes);
  hello.set_device_free_bytes(device.free_bytes);
  hello.set_cuda_version(device.cuda_version);
  hello.set_driver_version(device.driver_version);
  hello.set_libtorch_version(device.libtorch_version);
  if (measured) {
    hello.set_context_bytes(measured->context_bytes);
    hello.set_workspace_bytes(measured->workspace_bytes);
  }
  return hello;
}

void RunOne(Link& link, const internal::RunJob& run, const ServeOptions& options,
            const std::optional<plan::DeviceConstants>& measured, train::BaseModelCache* cache) {
  job::TrainSpec spec = ToTrainSpec(
      run.spec(), run.job(),
      {run.base_model_path(), run.dataset_path(), run.eval_dataset_path(), run.state_dir(), run.init_adapter_path(),
       run.reference_dir()},
      run.cpu_threads(), run.created_unix_seconds());
  if (spec.device == "auto") spec.device = options.device;
  spec.memory_limit_bytes = run.memory_limit_bytes();
  if (measured) spec.device_constants = *measured;
  job::RunControl control;
  LinkObserver observer(&link, run);
  LinkScorer scorer(&link, run.job());
  FT_FAILPOINT("serve.job_received");
  link.SetRunning(run.job(), &control);
  const auto tool = RunTool(run.spec(), spec, observer, control);
  const job::RunResult result =
      tool ? *tool : train::RunTraining(spec, observer, control, cache, nullptr, &scorer);
  link.SetRunning("", nullptr);
  FT_FAILPOINT("serve.run_ended");
  observer.Finished(result);
  FT_FAILPOINT("serve.result_sent");
  link.Flush();
  FT_FAILPOINT("serve.result_acknowledged");
}

}  // namespace

int Serve(const ServeOptions& options) {
  // The daemon decides when to leave; a terminal's Ctrl-C reaches its whole group.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  // Before anything else uses the device.
  const auto measured = MeasuredOnce(options.measurement_file, DescribeDevice(options.device),
                                     [] { return train::MeasureDevice(/*device_index=*/0); });
  Link link(options.address, Hello(options, measured));
  train::BaseModelCache cache;
  while (const auto work = link.NextWork()) {
    if (work->run) {
      RunOne(link, *work->run, options, measured, &cache);
    } else {
      AnswerSample(link, *work->sample, options.device, &cache);
    }
  }
  if (link.lost()) std::fprintf(stderr, "finetune-worker: the daemon is gone, leaving\n");
  return 0;
}

}  // namespace finetuned::worker
