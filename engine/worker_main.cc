// finetune-worker: owns the GPU and runs training jobs, for the daemon or alone.


#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "engine/worker/launcher.h"
#include "engine/worker/serve.h"
#include "engine/worker/standalone.h"

int main(int argc, char** argv) {
  CLI::App cli{"Runs fine-tuning jobs. Started by finetuned; alone with --spec and --state.",
               "finetune-worker"};
  finetuned::worker::ServeOptions serve;
  finetuned::worker::StandaloneOptions alone;
  cli.set_version_flag("--version", FINETUNED_VERSION);
  auto* connect = cli.add_option("--connect", serve.address, "Daemon's worker socket (unix:///path)");
  cli.add_option("--token-fd", serve.token_fd, "File descriptor the daemon's token is read from")
      ->needs(connect);
  auto* spec = cli.add_option("--spec", alone.spec_file, "Job file (YAML or JSON)")->excludes(connect);
  cli.add_option("--state", alone.state_dir, "Directory for everything the run keeps")->needs(spec);
  cli.add_option("--device", serve.device, "auto, cuda or cpu");
  cli.add_option("--measurement", serve.measurement_file,
                 "File that keeps what a process takes of the device beside tensors")
      ->needs(connect);
  cli.add_option("--cpu-threads", alone.cpu_threads, "0: all cores");
  int processes = 1;
  cli.add_option("--processes", processes, "Data-parallel processes on this machine, a GPU each")
      ->needs(spec)
      ->check(CLI::Range(1, 1024));
  cli.footer("Exit codes: 0 done, 65 bad data, 70 internal error, 75 checkpointed (run again to go on),\n"
             "78 bad configuration. Signals: USR1 writes a checkpoint, USR2 finishes early, TERM writes a\n"
             "checkpoint and leaves. Under torchrun or srun it is one of the processes they start (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).");
  CLI11_PARSE(cli, argc, argv);
  if (!serve.address.empty()) return finetuned::worker::Serve(serve);
  if (!alone.spec_file.empty() && !alone.state_dir.empty()) {
    const auto world = finetuned::worker::WorldFromEnvironment();
    if (!world.ok()) {
      std::fprintf(stderr, "finetune-worker: %s\n", std::string(world.status().message()).c_str());
      return 78;
    }
    if (processes > 1 && world->size == 1) {
      return finetuned::worker::LaunchProcesses({argv, argv + argc}, processes);
    }
    alone.world = *world;
    finetuned::worker::SeeOnlyOwnGpu();
    return finetuned::worker::RunStandalone(alone);
  }
  std::fprintf(stderr, "finetune-worker: give --connect, or --spec and --state\n%s", cli.help().c_str());
  return 78;
}
