#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "clients/cli/client.h"
#include "clients/cli/term.h"

// Jobs and the daemon as text. No I/O.
namespace finetuned::cli {

std::string MethodName(const v1::JobSpec& spec);    // "sft"; "-" when none is set
std::string StateName(v1::JobState state);          // "QUEUED", "RUNNING", ...
std::string ReasonName(v1::StateReason reason);
bool IsTerminal(v1::JobState state);
std::string ColoredState(v1::JobState state, const Style& style);

// The table of `finetune ls`; `now` is Unix time.
std::string JobTable(const std::vector<v1::Job>& jobs, int64_t now, const Style& style);

// What `finetune top` shows: the daemon, its devices, the job on the device, the queue and what ended last.
// Lines of at most `width` columns; at most `height` of them.
std::vector<std::string> TopView(const v1::ServerInfo& info, const std::vector<v1::Job>& jobs, int64_t now, int width,
                                 int height, const Style& style);

// A message as one line of JSON, with the field names of the .proto files.
std::string JsonLine(const google::protobuf::Message& message);

// One line for an event of `finetune logs`: time, kind and what happened.
std::string EventLine(const v1::Event& event, const Style& style);

}  // namespace finetuned::cli
