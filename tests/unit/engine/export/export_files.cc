// Writes an export for scripts: export_files BASE ADAPTER FORMAT QUANTIZATION FOLDER; ADAPTER and QUANTIZATION may be "".
#include <cstdio>
#include <filesystem>
#include <string>

#include "engine/export/export.h"
#include "engine/format/extended_model.h"

int main(int argc, char** argv) {
  using namespace finetuned;
  if (argc != 6) {
    std::fprintf(stderr, "usage: export_files BASE ADAPTER FORMAT QUANTIZATION FOLDER\n");
    return 2;
  }
  exports::ExportOptions options;
  options.base_path = options.base_name = argv[1];
  options.adapter_dir = argv[2];
  options.format = argv[3];
  options.quantization = argv[4];
  options.name = "an export";
  options.ollama_modelfile = true;
  options.max_shard_bytes = 60'000;
  const std::string folder = argv[5];
  std::filesystem::create_directories(folder);
  const auto base = format::OpenModelFor(options.base_path, options.adapter_dir);
  absl::Status status = base.status();
  if (status.ok()) status = exports::WriteExport(options, *base, folder, nullptr);
  if (status.ok()) status = exports::WriteManifest(options, {}, folder);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
