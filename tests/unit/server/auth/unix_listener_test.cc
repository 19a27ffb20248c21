#include "server/auth/unix_listener.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "finetuned/v1/daemon.grpc.pb.h"

namespace finetuned::auth {
namespace {

// Answers GetServerInfo with the caller's principal, or refuses.
class WhoAmI final : public v1::Daemon::CallbackService {
 public:
  const Authenticator* authenticator = nullptr;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest*,
                                          v1::ServerInfo* response) override {
    auto* reactor = context->DefaultReactor();
    const auto caller = authenticator->Identify(*context);
    if (caller.ok()) {
      response->set_instance_id(caller->principal);
      reactor->Finish(grpc::Status::OK);
    } else {
      reactor->Finish(grpc::Status(static_cast<grpc::StatusCode>(caller.status().code()),
                                   std::string(caller.status().message())));
    }
    return reactor;
  }
};

class UnixListenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/ft_socket_XXXXXX";
    dir_ = mkdtemp(dir);
    path_ = dir_ + "/sub/d.sock";
  }
  void TearDown() override {
    if (listener_ != nullptr) listener_->Stop();
    if (server_ != nullptr) server_->Shutdown();
    std::filesystem::remove_all(dir_);
  }
  void Serve(std::set<uid_t> allowed) {
    auto listener = UnixListener::Create({path_, std::move(allowed)});
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    service_.authenticator = listener_.get();
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    listener_->Serve(server_.get());
  }
  grpc::Status Ask(std::string* principal) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    auto channel = grpc::CreateCustomChannel("unix:" + path_, grpc::InsecureChannelCredentials(), args);
    auto stub = v1::Daemon::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::ServerInfo info;
    const grpc::Status status = stub->GetServerInfo(&context, {}, &info);
    *principal = info.instance_id();
    return status;
  }

  std::string dir_, path_;
  WhoAmI service_;
  std::unique_ptr<UnixListener> listener_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(UnixListenerTest, CallsCarryTheUserTheKernelNames) {
  Serve({getuid()});
  std::string principal;
  for (int i = 0; i < 20; ++i) {
    const grpc::Status status = Ask(&principal);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(principal, "uid:" + std::to_string(getuid()));
  }
}

TEST_F(UnixListenerTest, OtherUsersArePermissionDenied) {
  Serve({getuid() + 1});
  std::string principal;
  const grpc::Status status = Ask(&principal);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_NE(status.error_message().find("socket.allowed_uids"), std::string::npos);
}

TEST_F(UnixListenerTest, ConnectionsAtTheSameTimeAreToldApart) {
  Serve({getuid()});
  std::vector<std::future<bool>> asked;
  for (int i = 0; i < 8; ++i) {
    asked.push_back(std::async(std::launch::async, [this] {
      std::string principal;
      return Ask(&principal).ok();
    }));
  }
  for (auto& one : asked) EXPECT_TRUE(one.get());
}

TEST_F(UnixListenerTest, TheSocketIsPrivate) {
  Serve({getuid()});
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((dir_ + "/sub").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(UnixListenerTest, ALiveDaemonIsNotReplacedADeadOneIs) {
  Serve({getuid()});
  EXPECT_EQ(UnixListener::Create({path_, {}}).status().code(), absl::StatusCode::kAlreadyExists);
  listener_->Stop();
  EXPECT_FALSE(std::filesystem::exists(path_));
  // What a daemon that was killed leaves: a socket file nobody listens on.
  const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(dead, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(dead);
  const auto second = UnixListener::Create({path_, {}});
  EXPECT_TRUE(second.ok()) << second.status();
}

TEST_F(UnixListenerTest, AFileThatIsNoSocketIsLeftAlone) {
  std::filesystem::create_directories(dir_ + "/sub");
  std::ofstream(path_) << "precious";
  EXPECT_EQ(UnixListener::Create({path_, {}}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(UnixListenerTest, PathsThatAreTooLongAreRefused) {
  EXPECT_EQ(UnixListener::Create({"/tmp/" + std::string(200, 'x'), {}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(UnixListenerTest, PeersThatAreNotOursAreUnauthenticated) {
  Serve({getuid()});
  for (const char* peer : {"", "ipv4:127.0.0.1:80", "fd:", "fd:99999", "fd:x"}) {
    EXPECT_EQ(listener_->IdentifyPeer(peer).status().code(), absl::StatusCode::kUnauthenticated) << peer;
  }
}

}  // namespace
}  // namespace finetuned::auth
