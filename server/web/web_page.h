#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "finetuned/v1/daemon.grpc.pb.h"
#include "finetuned/v1/jobs.grpc.pb.h"
#include "server/web/http_server.h"

namespace finetuned::web {

// The page in a browser: jobs, queue, curves, the memory plan against what was measured. A client of the API
// like any other, over a channel inside the process, that calls nothing but Get, List and Query: it cannot
// change anything. Thread safe.
//
//   /                        the page
//   /api/server              GetServerInfo
//   /api/jobs                ListJobs, newest first, at most 200
//   /api/jobs/ID             GetJob
//   /api/jobs/ID/metrics     QueryMetrics; ?keys=loss,eval_loss&max_points=500
//   /api/jobs/ID/events      ListEvents of one kind; ?type=warning (required)
//   /api/jobs/ID/checkpoints ListCheckpoints
//
// JSON with the field names of the .proto files; errors as {"error": TEXT}.
class WebPage {
 public:
  explicit WebPage(std::shared_ptr<grpc::Channel> channel);

  // Refuses methods other than GET and HEAD, a Host that is not this machine's own name for itself (a page of
  // another site whose name was made to resolve to 127.0.0.1), and requests that another site's page makes.
  Response Answer(const Request& request);

 private:
  Response Api(const Request& request);
  Response JobApi(const std::string& id, const std::string& part, const std::string& query);

  std::unique_ptr<v1::Jobs::Stub> jobs_;
  std::unique_ptr<v1::Daemon::Stub> daemon_;
};

// The value of `key` in "a=1&b=2", decoded; "" when it is not there.
std::string QueryValue(const std::string& query, const std::string& key);
// A header Host of the machine itself: localhost, 127.0.0.0/8 or [::1], with any port (a tunnel's may differ).
bool IsOwnHost(const std::string& host);

}  // namespace finetuned::web
