#include <filesystem>
#include <fstream>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/adapter_files.h"
#include "clients/cli/commands.h"
#include "clients/cli/hash.h"
#include "clients/cli/term.h"
#include "proto/spec/crc32c.h"

namespace finetuned::cli {
namespace {

ExitCode ListAdapters(App& app) {
  Client client(app.connect);
  v1::ListAdaptersRequest request;
  v1::ListAdaptersResponse all;
  std::vector<std::vector<std::string>> rows = {{"ADAPTER", "BASE", "JOB", "SIZE", "EVAL LOSS"}};
  do {
    v1::ListAdaptersResponse response;
    auto context = client.Context();
    Check(client.adapters->ListAdapters(context.get(), request, &response), client);
    for (const auto& a : response.adapters()) {
      const auto loss = a.metrics().find("eval_loss");
      rows.push_back({ShortName(a.name()), a.base_model(), ShortName(a.source_job()),
                      FormatBytes(static_cast<double>(a.size_bytes())),
                      loss == a.metrics().end() ? "-" : absl::StrFormat("%.4f", loss->second)});
    }
    request.set_page_token(response.next_page_token());
    all.mutable_adapters()->MergeFrom(response.adapters());
  } while (!request.page_token().empty());
  if (app.output != "table") {
    PrintMessage(all, app.output);
    return kOk;
  }
  std::cout << (rows.size() == 1 ? "No adapters yet.\n" : Table(rows));
  return kOk;
}

// Goes on at the end of an earlier partial download.
void DownloadFile(const Client& client, const std::string& adapter, const v1::AdapterFile& file,
                  const std::filesystem::path& dir) {
  const std::filesystem::path name(file.file());
  if (name.has_parent_path() || name.empty() || file.file() == "..") {
    throw CommandError{kFailed, absl::StrCat("the daemon sent a file name with a path: ", file.file())};
  }
  const std::filesystem::path partial = dir / (file.file() + ".part");
  std::error_code error;
  int64_t offset = static_cast<int64_t>(std::filesystem::file_size(partial, error));
  if (error || offset > file.size_bytes()) offset = 0;
  std::ofstream out(partial, offset > 0 ? std::ios::binary | std::ios::app : std::ios::binary);
  if (!out) throw CommandError{kFailed, absl::StrCat("cannot write ", partial.string())};
  v1::DownloadAdapterRequest request;
  request.set_name(adapter);
  request.set_file(file.file());
  request.set_read_offset(offset);
  auto context = client.Context(0);
  auto reader = client.adapters->DownloadAdapter(context.get(), request);
  v1::DownloadChunk chunk;
  while (reader->Read(&chunk)) {
    if (spec::Crc32c(chunk.data()) != chunk.crc32c()) {
      throw CommandError{kFailed, absl::StrCat(file.file(), ": a chunk arrived damaged; run pull again")};
    }
    out.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
  }
  Check(reader->Finish(), client);
  out.close();
  if (!out) throw CommandError{kFailed, absl::StrCat("cannot write ", partial.string(), ": disk full?")};
  std::ifstream written(partial, std::ios::binary);
  if (Sha256Hex(written) != file.sha256()) {
    std::filesystem::remove(partial);
    throw CommandError{kFailed, absl::StrCat(file.file(), ": checksum differs; run pull again")};
  }
  std::filesystem::rename(partial, dir / file.file());
}

ExitCode Pull(App& app, const std::string& id, std::string to) {
  Client client(app.connect);
  const std::string name = FindAdapter(client, id);
  if (to.empty()) to = ShortName(name);
  const v1::Adapter adapter = DownloadAdapter(client, name, to);
  std::cout << to << "\n";
  if (!adapter.sha256().empty()) std::cerr << "Load it: PeftModel.from_pretrained(base, \"" << to << "\")\n";
  return kOk;
}

}  // namespace

std::string FindAdapter(const Client& client, const std::string& id) {
  if (absl::StartsWith(id, "adapters/")) return id;
  v1::GetJobRequest request;
  request.set_name(ResourceName("jobs", id));
  v1::Job job;
  auto context = client.Context();
  const grpc::Status status = client.jobs->GetJob(context.get(), request, &job);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return ResourceName("adapters", id);
  Check(status, client);
  if (job.output_adapter().empty()) {
    throw CommandError{kFailed, absl::StrCat(job.name(), " is ", v1::JobState_Name(job.state()),
                                             " and has no adapter yet")};
  }
  return job.output_adapter();
}

v1::Adapter DownloadAdapter(const Client& client, const std::string& name, const std::string& to) {
  v1::GetAdapterRequest request;
  request.set_name(name);
  v1::Adapter adapter;
  auto context = client.Context();
  Check(client.adapters->GetAdapter(context.get(), request, &adapter), client);
  std::filesystem::create_directories(to);
  for (const auto& file : adapter.files()) DownloadFile(client, adapter.name(), file, to);
  return adapter;
}

void AddAdapterCommands(CLI::App& cli, App& app) {
  CLI::App* adapters = cli.add_subcommand("adapters", "List trained adapters");
  AddOutputOption(adapters, app);
  adapters->callback([&app] { app.action = [&app] { return ListAdapters(app); }; });

  auto id = std::make_shared<std::string>();
  auto to = std::make_shared<std::string>();
  CLI::App* pull = cli.add_subcommand("pull", "Download an adapter as a PEFT folder, or an export");
  pull->add_option("job", *id, "Job, or adapters/NAME")->required();
  pull->add_option("--to", *to, "Folder (default: the adapter's name)");
  pull->callback([&app, id, to] { app.action = [&app, id, to] { return Pull(app, *id, *to); }; });
}

}  // namespace finetuned::cli
