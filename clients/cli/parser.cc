#include "clients/cli/adapter_files.h"
#include "clients/cli/commands.h"

namespace finetuned::cli {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  finetune run sft --model smollm2 --data rows.jsonl      train and watch\n"
    "  finetune submit job.yaml                                queue a job file\n"
    "  finetune ls                                             the queue\n"
    "  finetune watch JOB                                      live view (Ctrl-C detaches)\n"
    "  finetune pull JOB --to DIR                              the adapter, as a PEFT folder\n"
    "  finetune export JOB --quantization q4_k_m --to DIR      a GGUF file with the adapter in it\n"
    "  finetune sample JOB \"prompt\" --compare base            let it answer\n"
    "  source <(finetune completion bash)                      complete commands and jobs with TAB\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 no daemon, 130 interrupted.";

}  // namespace

void BuildParser(CLI::App& cli, App& app) {
  cli.description("Fine-tune models through the finetuned daemon.");
  cli.footer(kExamples);
  cli.require_subcommand(1);
  cli.set_version_flag("--version", FINETUNED_VERSION);
  cli.add_option("--server", app.connect.server, "Daemon address: unix:///path or host:port")
      ->envname("FINETUNED_SERVER");
  cli.add_option("--token-file", app.connect.token_file, "File with the bearer token (TCP)");
  cli.add_option("--ca", app.connect.ca_file, "Certificate authority of the daemon (PEM, TCP)");
  cli.add_option("--cert", app.connect.cert_file, "Client certificate (PEM, mTLS)");
  cli.add_option("--key", app.connect.key_file, "Client key (PEM, mTLS)");
  cli.fallthrough();
  AddRunCommands(cli, app);
  AddJobCommands(cli, app);
  AddUpdateCommands(cli, app);
  AddViewCommands(cli, app);
  AddDataCommands(cli, app);
  AddAdapterCommands(cli, app);
  AddExportCommands(cli, app);
  AddSampleCommand(cli, app);
  AddDaemonCommands(cli, app);
  AddShellCommands(cli, app);
}

}  // namespace finetuned::cli
