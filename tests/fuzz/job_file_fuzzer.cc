// A job file: what is read can be checked, filled in, written and read again.
#include <google/protobuf/util/message_differencer.h>

#include "fuzzing.h"
#include "proto/spec/job_file.h"
#include "proto/spec/resolve.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace finetuned;
  const auto job = spec::ParseJobFile(fuzz::AsText(data, size), "job.yaml");
  if (!job.ok()) return 0;
  if (spec::ValidateSpec(job->spec()).empty()) {
    spec::ResolveContext context;
    context.model_max_length = 8192;
    const auto resolved = spec::ResolveSpec(job->spec(), context);
    if (resolved.ok()) {
      fuzz::Require(spec::ValidateSpec(*resolved).empty(), "a resolved spec is valid");
      const auto again = spec::ResolveSpec(*resolved, context);
      fuzz::Require(again.ok() && google::protobuf::util::MessageDifferencer::Equals(*again, *resolved),
                    "resolving twice changes nothing");
    }
  }
  const std::string yaml = spec::MessageToYaml(*job);
  (void)spec::MessageToJson(*job);
  const auto again = spec::ParseJobFile(yaml, "again.yaml");
  fuzz::Require(again.ok(), "what is written can be read: " + yaml + (again.ok() ? "" : again.status().ToString()));
  return 0;
}
