#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <string>

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/api/access.h"
#include "server/api/error.h"
#include "server/api/models.h"
#include "server/api/uploads.h"
#include "server/api/work_pool.h"
#include "server/auth/caller.h"
#include "server/jobs/job_manager.h"

namespace finetuned::api {

// What all services of all listeners share.
struct Shared {
  explicit Shared(const jobs::Daemon& d)
      : daemon(d), access(d.config->access, d.store), models(d.config->models),
        uploads(d.store, d.config->limits, d.config->quotas) {}
  const jobs::Daemon daemon;
  const Access access;
  Models models;
  Uploads uploads;
  std::function<void()> on_drain;  // called before JobManager::Drain
  std::atomic<int64_t> watchers{0};
  WorkPool quick{4, 4096};         // milliseconds: the store, one chunk of a file
  WorkPool slow{2, 64};            // seconds: validation, tokenizing
};

// A listener's way in: its services know through it who calls.
struct Front {
  Shared* shared = nullptr;
  const auth::Authenticator* authenticator = nullptr;
};

// Runs `handler`, which may block, on `pool`. Exceptions become INTERNAL.
inline absl::Status Guarded(const std::function<absl::Status()>& handler) {
  try {
    return handler();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

// The frame of every unary call: who calls, off to the pool, may they, answer. `handler` gets the auth::Caller.
// `request` lives as long as the call.
template <typename Handler>
grpc::ServerUnaryReactor* Unary(const Front& front, grpc::CallbackServerContext* context, WorkPool& pool,
                                const google::protobuf::Message& request, Handler handler) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<auth::Caller> caller = front.authenticator->Identify(*context);
  if (!caller.ok()) {
    reactor->Finish(ToGrpc(caller.status()));
    return reactor;
  }
  const bool taken = pool.Submit([context, reactor, request = &request, access = &front.shared->access, caller = *std::move(caller), handler = std::move(handler)] {
    if (context->IsCancelled()) {
      reactor->Finish(grpc::Status::CANCELLED);
      return;
    }
    reactor->Finish(ToGrpc(Guarded([&] {
      const absl::Status allowed = access->Check(caller, *request);
      return allowed.ok() ? handler(caller) : allowed;
    })));
  });
  if (!taken) {
    reactor->Finish(ToGrpc(Unavailable("OVERLOADED", "too many calls wait", std::chrono::seconds(1))));
  }
  return reactor;
}

// Copies a value out of a StatusOr.
template <typename T, typename Message>
absl::Status Answer(absl::StatusOr<T> result, Message* response) {
  if (!result.ok()) return result.status();
  *response = *std::move(result);
  return absl::OkStatus();
}

template <typename Request>
jobs::Caller MakeCaller(const auth::Caller& caller, const Request& request) {
  return {caller.principal, request.request_id(),
          request.request_id().empty() ? std::string() : store::Fingerprint(request)};
}

// A mutation outside JobManager that answers with nothing, done once per request_id. `run` stores the record it is given
// in the transaction that does the work.
template <typename Request>
absl::Status Once(store::Store* store, const auth::Caller& caller, const std::string& method, const Request& request,
                  const std::function<absl::Status(const std::optional<store::RequestRecord>&)>& run) {
  if (request.request_id().empty()) return run(std::nullopt);
  store::RequestRecord record = {caller.principal, request.request_id(), method, store::Fingerprint(request), "",
                                 absl::Now()};
  const auto known = store->FindRequest(record.principal, record.request_id, method, record.fingerprint);
  if (known.ok() || !absl::IsNotFound(known.status())) return known.status();
  return run(std::move(record));
}

}  // namespace finetuned::api
