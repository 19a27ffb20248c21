// finetune-worker: owns the GPU and runs training jobs, for the daemon or alone.


#include <cstdio>

#include <CLI/CLI.hpp>

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
  cli.footer("Exit codes: 0 done, 65 bad data, 70 internal error, 75 checkpointed (run again to go on),\n"
             "78 bad configuration. Signals: USR1 writes a checkpoint, TERM writes one and leaves.");
  CLI11_PARSE(cli, argc, argv);
  if (!serve.address.empty()) return finetuned::worker::Serve(serve);
  if (!alone.spec_file.empty() && !alone.state_dir.empty()) {
    return finetuned::worker::RunStandalone(alone);
  }
  std::fprintf(stderr, "finetune-worker: give --connect, or --spec and --state\n%s", cli.help().c_str());
  return 78;
}
