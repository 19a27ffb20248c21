#include "server/web/web_page.h"

#include <civetweb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/web/assets.h"

namespace finetuned::web {
namespace {

constexpr int kMaxJobs = 200;
constexpr int kMaxEvents = 200;
constexpr std::chrono::seconds kDeadline(5);

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

Response Error(int code, const std::string& message) {
  return {code, "application/json", absl::StrCat("{\"error\": ", Quoted(message), "}")};
}

int HttpCode(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE: return 400;
    case grpc::StatusCode::NOT_FOUND: return 404;
    case grpc::StatusCode::RESOURCE_EXHAUSTED: return 429;
    case grpc::StatusCode::UNAVAILABLE: return 503;
    case grpc::StatusCode::DEADLINE_EXCEEDED: return 504;
    default: return 500;
  }
}

Response Json(const grpc::Status& status, const google::protobuf::Message& message) {
  if (!status.ok()) return Error(HttpCode(status.error_code()), status.error_message());
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = false;
  Response response;
  if (!google::protobuf::util::MessageToJsonString(message, &response.body, options).ok()) {
    return Error(500, "the answer cannot be written as JSON");
  }
  return response;
}

// One unary call of a stub.
template <typename Stub, typename RequestT, typename ResponseT>
Response Call(Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const RequestT&, ResponseT*),
              const RequestT& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  ResponseT response;
  const grpc::Status status = (stub->*method)(&context, request, &response);
  return Json(status, response);
}

}  // namespace

std::string QueryValue(const std::string& query, const std::string& key) {
  std::string value(query.size() + 1, '\0');
  const int length = mg_get_var(query.data(), query.size(), key.c_str(), value.data(), value.size());
  value.resize(static_cast<size_t>(std::max(0, length)));
  return value;
}

bool IsOwnHost(const std::string& host) {
  std::string name = absl::AsciiStrToLower(host);
  const size_t colon = name.rfind(':');
  if (colon != std::string::npos && name.find(']', colon) == std::string::npos) {
    int port = 0;
    if (!absl::SimpleAtoi(name.substr(colon + 1), &port)) return false;
    name.resize(colon);
  }
  if (name == "localhost" || name == "[::1]") return true;
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  int first = 0;
  return parts.size() == 4 && absl::SimpleAtoi(parts[0], &first) && first == 127 &&
         std::all_of(parts.begin() + 1, parts.end(), [](const std::string& part) {
           int value = -1;
           return absl::SimpleAtoi(part, &value) && value >= 0 && value <= 255;
         });
}

WebPage::WebPage(std::shared_ptr<grpc::Channel> channel)
    : jobs_(v1::Jobs::NewStub(channel)), daemon_(v1::Daemon::NewStub(channel)) {}

Response WebPage::Answer(const Request& request) {
  if (!IsOwnHost(request.host)) {
    return Error(403, "this page answers under localhost, 127.0.0.1 and [::1] only; from another machine: ssh -L");
  }
  if (request.method != "GET" && request.method != "HEAD") return Error(405, "the page only reads");
  if (absl::StartsWith(request.path, "/api/")) {
    if (request.site == "cross-site" || request.site == "same-site") return Error(403, "asked by another site's page");
    return Api(request);
  }
  if (request.path == "/") return {200, "text/html; charset=utf-8", k_pagehtml};
  if (request.path == "/page.css") return {200, "text/css; charset=utf-8", k_pagecss};
  if (request.path == "/page.js") return {200, "text/javascript; charset=utf-8", k_pagejs};
  return Error(404, "there is no such page");
}

Response WebPage::Api(const Request& request) {
  const std::vector<std::string> parts = absl::StrSplit(request.path.substr(5), '/');
  if (parts.size() == 1 && parts[0] == "server") {
    return Call(daemon_.get(), &v1::Daemon::Stub::GetServerInfo, v1::GetServerInfoRequest());
  }
  if (parts[0] != "jobs" || parts.size() > 3) return Error(404, "there is no such resource");
  if (parts.size() > 1) return JobApi(parts[1], parts.size() == 3 ? parts[2] : "", request.query);
  v1::ListJobsRequest list;
  list.set_page_size(kMaxJobs);
  for (const char* field : {"name", "display_name", "spec", "state", "state_reason", "state_message", "progress",
                            "create_time", "end_time", "scheduling"}) {
    list.mutable_read_mask()->add_paths(field);
  }
  return Call(jobs_.get(), &v1::Jobs::Stub::ListJobs, list);
}

Response WebPage::JobApi(const std::string& id, const std::string& part, const std::string& query) {
  const std::string name = "jobs/" + id;
  if (part.empty()) {
    v1::GetJobRequest get;
    get.set_name(name);
    return Call(jobs_.get(), &v1::Jobs::Stub::GetJob, get);
  }
  if (part == "metrics") {
    v1::QueryMetricsRequest metrics;
    metrics.set_parent(name);
    for (const auto key : absl::StrSplit(QueryValue(query, "keys"), ',', absl::SkipEmpty())) {
      metrics.add_keys(std::string(key));
    }
    int32_t points = 0;
    if (absl::SimpleAtoi(QueryValue(query, "max_points"), &points)) metrics.set_max_points(points);
    return Call(jobs_.get(), &v1::Jobs::Stub::QueryMetrics, metrics);
  }
  if (part == "events") {
    const std::string type = QueryValue(query, "type");
    if (type.empty()) return Error(400, "type: which kind of events, e.g. ?type=warning");
    v1::ListEventsRequest events;
    events.set_parent(name);
    events.set_page_size(kMaxEvents);
    events.set_filter("type = " + type);
    return Call(jobs_.get(), &v1::Jobs::Stub::ListEvents, events);
  }
  if (part == "checkpoints") {
    v1::ListCheckpointsRequest checkpoints;
    checkpoints.set_parent(name);
    return Call(jobs_.get(), &v1::Jobs::Stub::ListCheckpoints, checkpoints);
  }
  return Error(404, "there is no such resource");
}

}  // namespace finetuned::web
