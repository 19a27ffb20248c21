#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <utility>

#include <google/protobuf/util/json_util.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/commands.h"
#include "clients/cli/term.h"

namespace finetuned::cli {
namespace {

struct SampleArguments {
  std::string target, prompt, compare;
  bool json = false;
  v1::SampleRequest request;  // all but the target
};

v1::Job GetJob(const Client& client, const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  auto context = client.Context();
  Check(client.jobs->GetJob(context.get(), request, &job), client);
  return job;
}

std::string NewestCheckpoint(const Client& client, const v1::Job& job) {
  v1::ListCheckpointsRequest request;
  request.set_parent(job.name());
  request.set_page_size(1);
  v1::ListCheckpointsResponse response;
  auto context = client.Context();
  Check(client.jobs->ListCheckpoints(context.get(), request, &response), client);
  if (response.checkpoints_size() == 0) {
    throw CommandError{kFailed, absl::StrCat(job.name(), " is ", v1::JobState_Name(job.state()),
                                             " and has neither an adapter nor a checkpoint yet")};
  }
  return response.checkpoints(0).name();
}

// Fills the request's target; returns the base model it stands on.
std::string SetTarget(const Client& client, const std::string& target, v1::SampleRequest* request) {
  if (absl::StartsWith(target, "models/")) {
    request->set_base_model(target);
    return target;
  }
  if (absl::StartsWith(target, "adapters/")) {
    v1::GetAdapterRequest get;
    get.set_name(target);
    v1::Adapter adapter;
    auto context = client.Context();
    Check(client.adapters->GetAdapter(context.get(), get, &adapter), client);
    request->set_adapter(target);
    return adapter.base_model();
  }
  const size_t checkpoint = target.find("/checkpoints/");
  const v1::Job job = GetJob(client, ResourceName("jobs", target.substr(0, checkpoint)));
  if (checkpoint != std::string::npos) {
    request->set_checkpoint(absl::StrCat(job.name(), target.substr(checkpoint)));
  } else if (!job.output_adapter().empty()) {
    request->set_adapter(job.output_adapter());
  } else {
    request->set_checkpoint(NewestCheckpoint(client, job));
  }
  return job.spec().base_model();
}

void PrintJson(const v1::SampleResponse& piece) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  if (google::protobuf::util::MessageToJsonString(piece, &json, options).ok()) std::cout << json << std::endl;
}

// One sample is printed as it comes; of several each is printed when it is complete.
class Printer {
 public:
  Printer(int samples, bool json) : texts_(static_cast<size_t>(std::max(1, samples))), json_(json) {
    style_.color = isatty(STDOUT_FILENO);
    notes_.color = isatty(STDERR_FILENO);
  }

  void Show(const v1::SampleResponse& piece) {
    tokens_ += piece.tokens_size();
    if (piece.tokens_per_second() > 0) speed_ = piece.tokens_per_second();
    if (json_) return PrintJson(piece);
    if (texts_.size() == 1) {
      std::cout << Printable(piece.text()) << std::flush;
      if (!piece.finish_reason().empty()) End(piece);
      return;
    }
    std::string& text = texts_.at(static_cast<size_t>(piece.index()));
    text += piece.text();
    if (piece.finish_reason().empty()) return;
    std::cout << style_.Bold(absl::StrCat("[", piece.index() + 1, "] ")) << Printable(text);
    End(piece);
  }

  void Summary() const {
    if (json_) return;
    std::cerr << notes_.Dim(absl::StrFormat("%d tokens, %.1f tokens/s", tokens_, speed_)) << "\n";
  }

 private:
  void End(const v1::SampleResponse& piece) const {
    std::cout << (piece.finish_reason() == "length" ? style_.Dim(" …") : "") << std::endl;
  }

  std::vector<std::string> texts_;
  const bool json_;
  Style style_, notes_;
  int tokens_ = 0;
  double speed_ = 0;
};

void Stream(const Client& client, const v1::SampleRequest& request, bool json) {
  auto context = client.Context(0);
  auto reader = client.adapters->Sample(context.get(), request);
  Printer printer(request.num_samples(), json);
  v1::SampleResponse piece;
  while (reader->Read(&piece)) printer.Show(piece);
  Check(reader->Finish(), client);
  printer.Summary();
}

ExitCode Sample(App& app, const SampleArguments& arguments) {
  const Client client(app.connect);
  v1::SampleRequest request = arguments.request;
  request.set_prompt(arguments.prompt);
  if (arguments.prompt == "-") {
    request.set_prompt(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  }
  const std::string base = SetTarget(client, arguments.target, &request);
  if (arguments.compare.empty()) {
    Stream(client, request, arguments.json);
    return kOk;
  }
  v1::SampleRequest other = request;
  const std::string with = arguments.compare == "base" ? base : arguments.compare;
  SetTarget(client, with, &other);
  Style style;
  style.color = isatty(STDOUT_FILENO);
  for (const auto& [name, what] : {std::pair(arguments.target, &request), std::pair(with, &other)}) {
    if (!arguments.json) std::cout << style.Bold(absl::StrCat("── ", name)) << std::endl;
    Stream(client, *what, arguments.json);
  }
  return kOk;
}

}  // namespace

void AddSampleCommand(CLI::App& cli, App& app) {
  auto a = std::make_shared<SampleArguments>();
  v1::SampleRequest& r = a->request;
  r.set_temperature(0.7);
  CLI::App* sample = cli.add_subcommand("sample", "Let an adapter or a base model answer");
  sample->add_option("target", a->target, "Job, adapters/NAME, jobs/JOB/checkpoints/STEP or models/NAME")->required();
  sample->add_option("prompt", a->prompt, "What to say; - reads standard input")->required();
  sample->add_option("--compare", a->compare, "Answer a second time with this target; base: the base model");
  const auto number = [&](const char* name, auto set, const char* help) {
    sample->add_option_function<double>(name, [a, set](double v) { (a->request.*set)(v); }, help);
  };
  const auto whole = [&](const char* name, auto set, const char* help) {
    sample->add_option_function<int32_t>(name, [a, set](int32_t v) { (a->request.*set)(v); }, help);
  };
  whole("--max-tokens", &v1::SampleRequest::set_max_tokens, "Longest answer (256)");
  number("--temperature", &v1::SampleRequest::set_temperature, "0: always the most probable token (0.7)");
  number("--top-p", &v1::SampleRequest::set_top_p, "Only the most probable tokens that sum to this (1)");
  whole("--top-k", &v1::SampleRequest::set_top_k, "Only this many most probable tokens (0: all)");
  number("--min-p", &v1::SampleRequest::set_min_p, "Only tokens this probable relative to the first (0: all)");
  number("--repetition-penalty", &v1::SampleRequest::set_repetition_penalty, "Above 1: repeat less (1)");
  whole("-n,--samples", &v1::SampleRequest::set_num_samples, "Answers (1)");
  sample->add_option_function<uint64_t>("--seed", [a](uint64_t v) { a->request.set_seed(v); }, "Random numbers (0)");
  sample->add_option_function<std::string>("--system", [a](const std::string& v) { a->request.set_system_prompt(v); },
                                           "System message");
  sample->add_option_function<std::vector<std::string>>(
      "--stop", [a](const std::vector<std::string>& v) { a->request.mutable_stop()->Assign(v.begin(), v.end()); },
      "End the answer at this text; may be repeated");
  sample->add_flag_callback("--raw", [a] { a->request.set_raw(true); }, "Continue the text, without chat template");
  sample->add_flag("--json", a->json, "Every piece as a line of JSON");
  sample->callback([&app, a] { app.action = [&app, a] { return Sample(app, *a); }; });
}

}  // namespace finetuned::cli
