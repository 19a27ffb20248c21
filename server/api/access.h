#pragma once

#include <optional>
#include <set>
#include <string>

#include <google/protobuf/message.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/auth/caller.h"
#include "server/config/config.h"
#include "server/store/store.h"

namespace finetuned::api {

// Who may see and change what (access.own_only of the configuration; without it everybody everything). A request that
// names a resource of another principal, anywhere in it, gets the answer it would get if there were none. Reads the
// store: not for gRPC's threads. Thread safe.
class Access {
 public:
  Access(const config::AccessConfig& config, const store::Store* store);

  // For whom ownership does not count: everybody, or an admin.
  bool SeesAll(const auth::Caller& caller) const;
  bool MaySee(const auth::Caller& caller, const std::string& owner) const;

  // NOT_FOUND for the first resource named in `request` ("jobs/x", "datasets/x", "adapters/x" and what is below them)
  // that does not exist or is another's. A repetition of an answered request passes.
  absl::Status Check(const auth::Caller& caller, const google::protobuf::Message& request) const;
  // Of one resource. Answers as Check.
  absl::Status CheckName(const auth::Caller& caller, const std::string& name) const;
  // PERMISSION_DENIED unless SeesAll: for what concerns the whole daemon.
  absl::Status CheckAdmin(const auth::Caller& caller, const std::string& what) const;

  // Empty: not known (the job that made an adapter is gone and nobody wrote it down). Nothing: no such resource.
  std::optional<std::string> OwnerOf(const std::string& name) const;

 private:
  bool IsRepetition(const auth::Caller& caller, const google::protobuf::Message& request) const;

  const bool own_only_;
  std::set<std::string> admins_;
  const store::Store* const store_;
};

}  // namespace finetuned::api
