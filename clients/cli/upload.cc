#include "clients/cli/upload.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/hash.h"
#include "clients/cli/term.h"
#include "proto/spec/crc32c.h"

namespace finetuned::cli {
namespace {

constexpr size_t kChunk = 1 << 20;

std::ifstream OpenOrThrow(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw CommandError{kUsage, absl::StrCat(path, " is a directory; a JSONL file is needed")};
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) throw CommandError{kUsage, absl::StrCat("cannot read ", path, ": no such file, or no permission")};
  return in;
}

// A dataset id allows [a-z][a-z0-9-]{2,62}.
std::string IdFor(const std::string& path, const std::string& method, const std::string& hash) {
  std::string id = "d";
  for (char c : std::filesystem::path(path).stem().string()) {
    c = absl::ascii_tolower(static_cast<unsigned char>(c));
    const bool keep = absl::ascii_isalnum(static_cast<unsigned char>(c));
    if (keep || id.back() != '-') id += keep ? c : '-';
    if (id.size() >= 40) break;
  }
  if (absl::ascii_isalpha(static_cast<unsigned char>(id[1]))) id.erase(0, 1);
  if (id.back() == '-') id.pop_back();
  return absl::StrCat(id, "-", method, "-", hash);
}

void ShowProgress(int64_t done, int64_t total) {
  if (!isatty(STDERR_FILENO) || total < (4 << 20)) return;
  const double fraction = static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, total));
  std::cerr << "\rUploading " << ProgressBar(fraction, 30) << " "
            << FormatBytes(static_cast<double>(done)) << (done == total ? "\n" : "") << std::flush;
}

grpc::Status Stream(const Client& client, std::ifstream& in, int64_t offset, int64_t size,
                    const std::string& id, const std::string& method, v1::Dataset* dataset) {
  auto context = client.Context(0);
  auto writer = client.datasets->UploadDataset(context.get(), dataset);
  in.clear();
  in.seekg(offset);
  std::string data(kChunk, '\0');
  do {
    in.read(data.data(), static_cast<std::streamsize>(kChunk));
    v1::UploadDatasetRequest request;
    request.set_dataset_id(id);
    request.set_method(method);
    request.set_write_offset(offset);
    request.set_data(data.data(), static_cast<size_t>(in.gcount()));
    request.set_crc32c(spec::Crc32c(request.data()));
    offset += in.gcount();
    request.set_finish(offset >= size);
    if (!writer->Write(request)) break;
    ShowProgress(offset, size);
  } while (offset < size);
  writer->WritesDone();
  return writer->Finish();
}

}  // namespace

std::string DescribeFindings(const v1::Dataset& dataset) {
  std::string out;
  auto add = [&](const char* kind, const v1::RowError& e) {
    absl::StrAppend(&out, "  ", kind, ": ");
    if (e.line() > 0) absl::StrAppend(&out, "line ", e.line(), e.field().empty() ? ": " : ", ");
    if (!e.field().empty()) absl::StrAppend(&out, e.field(), ": ");
    absl::StrAppend(&out, Printable(e.message()), "\n");
  };
  for (const auto& e : dataset.errors()) add("error", e);
  for (const auto& w : dataset.warnings()) add("warning", w);
  const int64_t hidden = dataset.error_count() - dataset.errors_size() + dataset.warning_count() -
                         dataset.warnings_size();
  if (hidden > 0) absl::StrAppend(&out, "  and ", hidden, " more\n");
  return out;
}

v1::Dataset UploadFile(const Client& client, const std::string& path, const std::string& method,
                       std::string id) {
  std::ifstream in = OpenOrThrow(path);
  const int64_t size = static_cast<int64_t>(std::filesystem::file_size(path));
  if (id.empty()) id = IdFor(path, method, Sha256Hex(in).substr(0, 12));
  v1::GetUploadStatusRequest status_request;
  status_request.set_dataset_id(id);
  v1::UploadStatus upload;
  auto context = client.Context();
  const grpc::Status found = client.datasets->GetUploadStatus(context.get(), status_request, &upload);
  if (!found.ok() && found.error_code() != grpc::StatusCode::NOT_FOUND) Check(found, client);
  v1::Dataset dataset;
  if (upload.complete()) {
    v1::GetDatasetRequest get;
    get.set_name(ResourceName("datasets", id));
    auto get_context = client.Context();
    Check(client.datasets->GetDataset(get_context.get(), get, &dataset), client);
  } else {
    grpc::Status status;
    for (int attempt = 0; attempt < 3; ++attempt) {
      status = Stream(client, in, upload.committed_size(), size, id, method, &dataset);
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
      auto again = client.Context();
      client.datasets->GetUploadStatus(again.get(), status_request, &upload);
    }
    Check(status, client);
  }
  if (dataset.state() == v1::Dataset::INVALID) {
    throw CommandError{kUsage, absl::StrCat(path, " is not usable for ", method, " (",
                                            dataset.error_count(), " errors)\n",
                                            DescribeFindings(dataset))};
  }
  return dataset;
}

std::string DatasetName(const Client& client, const std::string& name_or_path,
                        const std::string& method, const std::string& base_dir) {
  if (name_or_path.empty() || absl::StartsWith(name_or_path, "datasets/")) return name_or_path;
  std::filesystem::path path(name_or_path);
  if (path.is_relative() && !base_dir.empty()) path = std::filesystem::path(base_dir) / path;
  const v1::Dataset dataset = UploadFile(client, path.string(), method, "");
  const std::string findings = DescribeFindings(dataset);
  if (!findings.empty()) std::cerr << path.string() << ":\n" << findings;
  return dataset.name();
}

}  // namespace finetuned::cli
