#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "clients/cli/adapter_files.h"
#include "clients/cli/commands.h"
#include "clients/cli/term.h"
#include "clients/cli/terminal.h"
#include "clients/cli/text_rows.h"
#include "clients/cli/upload.h"
#include "clients/cli/watch.h"

namespace finetuned::cli {
namespace {

struct ToolFlags {
  std::string source, model, data, name, to, device;
  bool detach = false;
  v1::ExportSpec exported;
  double max_increase = -1;
  std::vector<std::string> bases, precisions;
  int64_t max_tokens = 0, max_seq_length = 0;
};

void AddToolFlags(CLI::App* c, App& app, ToolFlags* f) {
  c->add_option("source", f->source, "Job, or adapters/NAME; without one, the base of --model alone");
  c->add_option("--model", f->model, "Base model (default: the adapter's)");
  c->add_option("--data", f->data, "What to measure on: a .txt or JSONL file, or datasets/NAME (default: built-in sentences)");
  c->add_option("--name", f->name, "Job id, [a-z][a-z0-9-]{2,62}");
  c->add_option("--device", f->device, "auto (default), cuda or cpu");
  c->add_flag("-d,--detach", f->detach, "Do not wait");
  AddOutputOption(c, app);
}

// The dataset of --data; a plain text becomes rows first.
std::string DataOf(const Client& client, const std::string& data) {
  const std::filesystem::path path(data);
  if (path.extension() != ".txt") return DatasetName(client, data, "sft", "");
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (!in || !(text << in.rdbuf())) throw CommandError{kUsage, absl::StrCat("cannot read ", data, ", or it is empty")};
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("finetune-" + NewRequestId());
  std::filesystem::create_directories(folder);
  const std::filesystem::path rows = folder / path.stem().concat(".jsonl");
  std::ofstream(rows, std::ios::binary) << TextAsRows(text.str(), data);
  const std::string name = DatasetName(client, rows.string(), "sft", "");
  std::filesystem::remove_all(folder);
  return name;
}

v1::Job JobOf(const Client& client, const ToolFlags& f) {
  v1::Job job;
  v1::JobSpec* spec = job.mutable_spec();
  spec->set_base_model(f.model);
  if (!f.source.empty()) {
    v1::GetAdapterRequest request;
    request.set_name(FindAdapter(client, f.source));
    v1::Adapter adapter;
    auto context = client.Context();
    Check(client.adapters->GetAdapter(context.get(), request, &adapter), client);
    spec->set_init_adapter(adapter.name());
    if (f.model.empty()) spec->set_base_model(adapter.base_model());
  }
  const std::string& model = spec->base_model();
  if (model.empty()) throw CommandError{kUsage, "name a job, an adapter, or a base with --model"};
  if (model.find('/') == std::string::npos && model.find('.') == std::string::npos) {
    spec->set_base_model(ResourceName("models", model));
  }
  spec->mutable_compute()->set_device(f.device);
  if (!f.data.empty()) spec->set_dataset(DataOf(client, f.data));
  return job;
}

// Submits and waits. The job as it is then.
v1::Job Finish(const Client& client, const ToolFlags& f, v1::Job job, ExitCode* code) {
  v1::CreateJobRequest request;
  *request.mutable_job() = std::move(job);
  request.set_job_id(f.name);
  request.set_request_id(NewRequestId());
  v1::Job created;
  auto context = client.Context(60);
  Check(client.jobs->CreateJob(context.get(), request, &created), client);
  const bool live = StdoutIsTerminal();
  std::cerr << created.name() << "\n";
  if (f.detach) return created;
  *code = WatchJob(client, created.name(), live ? WatchOutput::kLive : WatchOutput::kJson, false);
  v1::GetJobRequest get;
  get.set_name(created.name());
  auto again = client.Context();
  Check(client.jobs->GetJob(again.get(), get, &created), client);
  return created;
}

ExitCode Export(App& app, const ToolFlags& f) {
  Client client(app.connect);
  v1::Job job = JobOf(client, f);
  *job.mutable_spec()->mutable_export_() = f.exported;
  if (f.max_increase >= 0) job.mutable_spec()->mutable_export_()->set_max_perplexity_increase(f.max_increase);
  ExitCode code = kOk;
  job = Finish(client, f, std::move(job), &code);
  if (code != kOk || f.detach) return code;
  if (job.output_adapter().empty()) return kFailed;
  if (f.to.empty()) {
    std::cerr << "Fetch it: finetune pull " << ShortName(job.name()) << "\n";
    return kOk;
  }
  const v1::Adapter written = DownloadAdapter(client, job.output_adapter(), f.to);
  const auto metric = [&](const char* key) {
    const auto found = written.metrics().find(key);
    return found == written.metrics().end() ? 0.0 : found->second;
  };
  if (written.metrics().contains("perplexity")) {
    std::cerr << absl::StrFormat("perplexity %.4f, of base and adapter %.4f (%+.2f %%); largest difference of a logit %.4g\n",
                                 metric("perplexity"), metric("reference_perplexity"),
                                 100 * metric("perplexity_increase"), metric("max_logit_difference"));
  }
  std::cout << f.to << "\n";
  return kOk;
}

// What was measured, one line a variant. COST: the rise of the perplexity over the same, with or without adapter, on the
// base in 16 bits.
std::string Measured(const v1::EvaluateSpec& spec, const google::protobuf::Map<std::string, double>& metrics) {
  const auto find = [&](const std::string& key) {
    const auto it = metrics.find(key);
    return it == metrics.end() ? NAN : it->second;
  };
  std::vector<std::vector<std::string>> rows = {{"BASE", "PRODUCTS", "ADAPTER", "MEMORY", "LOSS", "PERPLEXITY", "COST"}};
  for (const std::string& base : spec.bases()) {
    for (const std::string& precision : spec.matmul_precisions()) {
      for (const std::string adapter : {"", "/adapter"}) {
        const std::string key = absl::StrCat(base, "/", precision, adapter);
        const double perplexity = find("perplexity/" + key);
        if (std::isnan(perplexity)) continue;
        const double cost = perplexity / find("perplexity/none/bf16" + adapter) - 1;
        rows.push_back({base, precision, adapter.empty() ? "no" : "yes", FormatBytes(find("base_bytes/" + key)),
                        absl::StrFormat("%.4f", find("loss/" + key)), absl::StrFormat("%.4f", perplexity),
                        std::isnan(cost) ? "-" : absl::StrFormat("%+.2f %%", 100 * cost)});
      }
    }
  }
  return Table(rows);
}

ExitCode Evaluate(App& app, const ToolFlags& f) {
  Client client(app.connect);
  v1::Job job = JobOf(client, f);
  v1::EvaluateSpec* evaluate = job.mutable_spec()->mutable_evaluate();
  for (const std::string& base : f.bases) evaluate->add_bases(base);
  for (const std::string& precision : f.precisions) evaluate->add_matmul_precisions(precision);
  evaluate->set_max_tokens(f.max_tokens);
  job.mutable_spec()->mutable_schedule()->set_max_seq_length(f.max_seq_length);
  ExitCode code = kOk;
  job = Finish(client, f, std::move(job), &code);
  if (code != kOk || f.detach) return code;
  v1::GetAdapterRequest request;
  request.set_name(job.output_adapter());
  v1::Adapter result;
  auto context = client.Context();
  Check(client.adapters->GetAdapter(context.get(), request, &result), client);
  if (app.output != "table") {
    PrintMessage(result, app.output);
    return kOk;
  }
  std::cout << Measured(job.resolved_spec().evaluate(), result.metrics());
  return kOk;
}

}  // namespace

void AddExportCommands(CLI::App& cli, App& app) {
  auto flags = std::make_shared<ToolFlags>();
  CLI::App* exporting = cli.add_subcommand("export", "Write an adapter, or base and adapter, for other tools, and check it");
  AddToolFlags(exporting, app, flags.get());
  auto format = std::make_shared<std::string>("gguf");
  auto quantization = std::make_shared<std::string>();
  auto shard = std::make_shared<int64_t>(0);
  auto modelfile = std::make_shared<bool>(false);
  exporting->add_option("--format", *format, "gguf (default), merged, gguf_lora or peft");
  exporting->add_option("--quantization", *quantization,
                        "gguf: q4_k_m (default), q5_k_m, q6_k, q8_0, q5_1, q5_0, q4_1, q4_0, f16, bf16, f32; merged: bf16 "
                        "(default), f16, f32");
  exporting->add_option("--max-shard-bytes", *shard, "Of merged (default 5 GB)");
  exporting->add_flag("--modelfile", *modelfile, "Also write an Ollama Modelfile");
  exporting->add_option("--max-perplexity-increase", flags->max_increase,
                        "What still counts as good, as a ratio: 0.05 is 5 % (default by format)");
  exporting->add_option("--to", flags->to, "Folder to download the result to");
  exporting->callback([&app, flags, format, quantization, shard, modelfile] {
    flags->exported.set_format(*format);
    flags->exported.set_quantization(*quantization);
    flags->exported.set_max_shard_bytes(*shard);
    flags->exported.set_ollama_modelfile(*modelfile);
    app.action = [&app, flags] { return Export(app, *flags); };
  });

  auto measured = std::make_shared<ToolFlags>();
  CLI::App* eval = cli.add_subcommand("eval", "Perplexity of a base, and with an adapter, by base format and products");
  AddToolFlags(eval, app, measured.get());
  eval->add_option("--bases", measured->bases, "none, int8, fp8, nf4 (default), fp4")->delimiter(',');
  eval->add_option("--matmul-precisions", measured->precisions, "bf16 (default), fp8, int8")->delimiter(',');
  eval->add_option("--max-seq-length", measured->max_seq_length, "Longer rows and texts are measured in windows of it (default 1024)");
  eval->add_option("--max-tokens", measured->max_tokens, "Measured at most (default: all)");
  eval->callback([&app, measured] { app.action = [&app, measured] { return Evaluate(app, *measured); }; });
}

}  // namespace finetuned::cli
