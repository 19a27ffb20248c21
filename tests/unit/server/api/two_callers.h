#pragma once

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "api_testing.h"
#include "server/auth/token_file.h"

namespace finetuned::api {

// A daemon with a TCP listener and two principals, token:ann and token:bob, beside the user of the test (an admin).
class TwoCallers : public ApiTest {
 protected:
  void Configure(config::Config* config) override {
    ann_token_ = *auth::MakeToken("ann");
    bob_token_ = *auth::MakeToken("bob");
    config->tcp.address = "127.0.0.1:0";
    config->tcp.token_file = dir_ + "/tokens";
    WriteTokens(ann_token_.line + "\n" + bob_token_.line + "\n");
  }
  void WriteTokens(const std::string& text) {
    const std::string path = dir_ + "/tokens";
    std::ofstream(path + ".new") << text;
    chmod((path + ".new").c_str(), 0600);
    rename((path + ".new").c_str(), path.c_str());
  }
  std::shared_ptr<grpc::Channel> Tcp() {
    return grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->tcp_port()), grpc::InsecureChannelCredentials());
  }
  std::unique_ptr<grpc::ClientContext> As(const auth::NewToken& token) {
    auto context = Context();
    context->AddMetadata("authorization", "Bearer " + token.token);
    return context;
  }
  // Lines of the audit log.
  std::vector<std::string> Audit() {
    std::ifstream in(store_->layout().AuditLog());
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  auth::NewToken ann_token_, bob_token_;
};

}  // namespace finetuned::api
