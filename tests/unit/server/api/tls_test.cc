// mTLS: who has a certificate of the right authority gets in under its name; changed files count without a restart.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/time/clock.h"
#include "api_testing.h"

namespace finetuned::api {
namespace {

class Mtls : public ApiTest {
 protected:
  void Configure(config::Config* config) override {
    MakeAuthority("ca");
    MakeAuthority("other");
    MakeCertificate("ca", "server", "localhost");
    MakeCertificate("ca", "ann", "ann");
    MakeCertificate("other", "eve", "ann");
    config->tcp.address = "127.0.0.1:0";
    config->tcp.tls_certificate = dir_ + "/server.crt";
    config->tcp.tls_key = dir_ + "/server.key";
    config->tcp.tls_client_ca = dir_ + "/trusted.crt";
    Install("ca.crt", "trusted.crt");
  }
  void OpenSsl(const std::string& arguments) {
    const std::string command = "cd " + dir_ + " && openssl " + arguments + " >/dev/null 2>&1";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  void MakeAuthority(const std::string& name) {
    OpenSsl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=" + name + " -keyout " +
            name + ".key -out " + name + ".crt");
  }
  void MakeCertificate(const std::string& authority, const std::string& name, const std::string& common_name) {
    std::ofstream(dir_ + "/san.cnf") << "subjectAltName=DNS:localhost\n";
    OpenSsl("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=" + common_name + " -keyout " + name +
            ".key -out " + name + ".csr");
    OpenSsl("x509 -req -days 2 -CAcreateserial -extfile san.cnf -CA " + authority + ".crt -CAkey " + authority +
            ".key -in " + name + ".csr -out " + name + ".crt");
  }
  void Install(const std::string& from, const std::string& to) {
    std::filesystem::copy_file(dir_ + "/" + from, dir_ + "/" + to + ".new");
    std::filesystem::rename(dir_ + "/" + to + ".new", dir_ + "/" + to);
  }
  std::string Read(const std::string& name) {
    std::ifstream in(dir_ + "/" + name);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  grpc::Status AskAs(const std::string& name) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = Read("ca.crt");
    if (!name.empty()) {
      options.pem_cert_chain = Read(name + ".crt");
      options.pem_private_key = Read(name + ".key");
    }
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride("localhost");
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto stub = v1::Jobs::NewStub(grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->tcp_port()),
                                                            grpc::SslCredentials(options), arguments));
    v1::CancelJobRequest request;
    request.set_name("jobs/none");
    v1::Job job;
    return stub->CancelJob(Context(5).get(), request, &job);
  }
  std::string Audit() { return Read("state/logs/audit.log"); }
};

TEST_F(Mtls, TheCertificateIsThePrincipal) {
  EXPECT_EQ(AskAs("ann").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_NE(Audit().find("\"principal\":\"tls:ann\""), std::string::npos) << Audit();
  EXPECT_EQ(AskAs("").error_code(), grpc::StatusCode::UNAVAILABLE) << "no certificate";
  EXPECT_EQ(AskAs("eve").error_code(), grpc::StatusCode::UNAVAILABLE) << "a certificate of another authority";
}

TEST_F(Mtls, AChangedAuthorityCountsWithoutARestart) {
  EXPECT_EQ(AskAs("ann").error_code(), grpc::StatusCode::NOT_FOUND);
  Install("other.crt", "trusted.crt");
  grpc::Status eve;
  for (int i = 0; i < 20 && eve.error_code() != grpc::StatusCode::NOT_FOUND; ++i) {
    absl::SleepFor(absl::Milliseconds(500));
    eve = AskAs("eve");
  }
  EXPECT_EQ(eve.error_code(), grpc::StatusCode::NOT_FOUND) << eve.error_message();
  EXPECT_EQ(AskAs("ann").error_code(), grpc::StatusCode::UNAVAILABLE) << "an authority that was taken out still counts";
}

}  // namespace
}  // namespace finetuned::api
