// The daemon's configuration: what is read and printed is read again as the same.
#include "fuzzing.h"
#include "server/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace finetuned;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] >= 0x80) return 0;  // the printer replaces what is no UTF-8
  }
  const auto read = config::ParseConfig(std::string(fuzz::AsText(data, size)), "config.yaml");
  if (!read.ok()) return 0;
  (void)config::CheckConfig(*read);
  const std::string printed = config::PrintConfig(*read);
  const auto again = config::ParseConfig(printed, "printed.yaml");
  fuzz::Require(again.ok(), "what is printed can be read: " + printed);
  fuzz::Require(config::PrintConfig(*again) == printed, "and says the same: " + printed);
  for (const char* model : {"models/tiny", "models/../x", "/", "/etc/passwd", "/../..", ""}) {
    (void)config::ResolveModel(read->models, model);
  }
  return 0;
}
