#include "server/config/config.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace finetuned::config {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Problem(const std::string& text) {
  return std::string(ParseConfig(text, "c.yaml").status().message());
}

Config Valid() {
  Config config = DefaultConfig();
  config.state_dir = "/s";
  config.socket.path = "/s/d.sock";
  return config;
}

TEST(Config, KeysAreTheDocumentedOnes) {
  EXPECT_THAT(ConfigKeys(),
              ElementsAre("state_dir", "socket.path", "socket.allowed_uids", "tcp.address",
                          "tcp.tls_certificate", "tcp.tls_key", "tcp.tls_client_ca", "tcp.token_file",
                          "access.own_only", "access.admins", "quotas.max_queued_jobs",
                          "quotas.max_storage_bytes", "quotas.max_device_time", "quotas.device_time_window",
                          "quotas.exempt", "audit.enabled", "audit.max_bytes", "audit.files", "models",
                          "model_roots", "worker.binary", "worker.backend", "worker.device",
                          "worker.cpu_threads", "worker.prestart", "worker.start_timeout",
                          "worker.heartbeat_timeout", "worker.progress_timeout", "worker.cancel_grace",
                          "worker.leave_grace", "worker.idle_timeout", "worker.max_crashes",
                          "worker.vram_budget_bytes", "slurm.script", "slurm.arguments", "slurm.vram_bytes",
                          "slurm.poll_interval", "metrics.address", "metrics.job_series_linger",
                          "web.address", "limits.max_queued_jobs", "limits.max_message_bytes",
                          "limits.max_chunk_bytes", "limits.max_dataset_bytes",
                          "limits.max_streams_per_connection", "limits.max_rpc_memory_bytes",
                          "limits.max_watchers", "limits.min_free_disk_bytes"));
}

TEST(Config, EmptyFileGivesTheDefaults) {
  const auto config = ParseConfig("", "c.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(PrintConfig(*config), PrintConfig(DefaultConfig()));
}

TEST(Config, ValuesOfEveryTypeAreRead) {
  const auto config = ParseConfig(R"(
state_dir: /var/lib/x
socket: {path: /run/x.sock, allowed_uids: [1000, 1001]}
models:
  smol: /models/smol.gguf
  llama: /models/llama
model_roots: [/models, /data]
worker:
  device: cpu
  prestart: false
  cancel_grace: 1m30s
  idle_timeout: 0
  vram_budget_bytes: 20GiB
metrics:
)",
                                  "c.yaml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models.models.at("smol"), "/models/smol.gguf");
  EXPECT_THAT(config->models.roots, ElementsAre("/models", "/data"));
  EXPECT_THAT(config->socket.allowed_uids, ElementsAre(1000, 1001));
  EXPECT_FALSE(config->worker.prestart);
  EXPECT_EQ(config->worker.cancel_grace, absl::Seconds(90));
  EXPECT_EQ(config->worker.vram_budget_bytes, int64_t{20} << 30);
  EXPECT_EQ(config->metrics.address, "127.0.0.1:9464");
}

TEST(Config, WhatIsPrintedCanBeReadBack) {
  Config config = Valid();
  config.models.models["a"] = "/a b: c";
  config.models.roots = {"/r"};
  config.worker.start_timeout = absl::Milliseconds(1500);
  config.tcp.address = "127.0.0.1:1";
  const std::string text = PrintConfig(config);
  const auto read = ParseConfig(text, "c.yaml");
  ASSERT_TRUE(read.ok()) << read.status() << "\n" << text;
  EXPECT_EQ(PrintConfig(*read), text);
}

TEST(Config, UnknownKeyNamesLineAndNearest) {
  EXPECT_EQ(Problem("state_dir: /x\nworker:\n  devise: cpu\n"),
            "c.yaml:3: worker.devise: unknown key; did you mean device?");
  EXPECT_EQ(Problem("\nmodel: {}\n"), "c.yaml:2: model: unknown key; did you mean models?");
  EXPECT_THAT(Problem("tcp:\n  zzzzzzz: 1\n"), StartsWith("c.yaml:2: tcp.zzzzzzz: unknown key; known are address"));
}

TEST(Config, WrongTypeNamesLineAndKey) {
  EXPECT_EQ(Problem("worker:\n  cpu_threads: many\n"),
            "c.yaml:2: worker.cpu_threads: must be a whole number, it is \"many\"");
  EXPECT_EQ(Problem("worker: fast\n"), "c.yaml:1: worker: must be a mapping of keys to values, it is a value");
  EXPECT_EQ(Problem("worker:\n  prestart: maybe\n"),
            "c.yaml:2: worker.prestart: must be true or false, it is \"maybe\"");
  EXPECT_EQ(Problem("worker:\n  cancel_grace: 30\n"),
            "c.yaml:2: worker.cancel_grace: must be a duration such as 90s, 15m or 2h, it is \"30\"");
  EXPECT_EQ(Problem("state_dir: [a]\n"), "c.yaml:1: state_dir: must be a text, it is a list");
  EXPECT_EQ(Problem("models: /x\n"), "c.yaml:1: models: must be a mapping of names to paths, it is a value");
  EXPECT_THAT(Problem("limits:\n  max_dataset_bytes: 8 gigs\n"), HasSubstr("number of bytes"));
  EXPECT_THAT(Problem("- a\n"), HasSubstr("the document must be a mapping"));
}

TEST(Config, OutOfRangeNamesTheRange) {
  EXPECT_EQ(Problem("worker:\n  max_crashes: 0\n"),
            "c.yaml:2: worker.max_crashes: must be between 1 and 100, it is 0");
  EXPECT_THAT(Problem("limits:\n  max_chunk_bytes: 1GiB\n"), HasSubstr("must be between 1024 and 16777216 bytes"));
}

TEST(Config, TwiceTheSameKeyIsAnError) {
  EXPECT_THAT(Problem("state_dir: /a\nstate_dir: /b\n"), HasSubstr("twice"));
}

TEST(Config, BrokenYamlNamesTheLine) {
  EXPECT_THAT(Problem("worker:\n  device: [cpu\n"), HasSubstr("not YAML"));
}

TEST(Config, MissingFileIsNamed) {
  EXPECT_THAT(std::string(LoadConfig("/no/such.yaml").status().message()), StartsWith("/no/such.yaml: "));
}

TEST(CheckConfig, DefaultsAreFine) { EXPECT_TRUE(CheckConfig(Valid()).ok()) << CheckConfig(Valid()); }

TEST(CheckConfig, TcpNeedsSomethingThatKnowsItsCallers) {
  Config config = Valid();
  config.tcp.address = "127.0.0.1:0";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("needs token_file"));
  config.tcp.token_file = "/proc/self/status";
  EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
  config.tcp.address = "0.0.0.0:9465";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("reachable from other machines"));
  config.tcp.tls_certificate = "/proc/self/status";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("belong together"));
  config.tcp.tls_key = "/proc/self/status";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("may be read by everybody"));
  config.tcp.tls_key = "/proc/self/mem";  // mode 0600
  EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
  config.tcp.token_file = "/no/such/file";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("tcp.token_file: /no/such/file"));
}

TEST(CheckConfig, LoopbackIsAnAddressNotABeginning) {
  for (const char* address : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"}) EXPECT_TRUE(IsLoopback(address)) << address;
  for (const char* address : {"127.example.com:1", "localhost.example.com:1", "0.0.0.0:1", "[::]:1", "128.0.0.1:1"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

TEST(CheckConfig, PrincipalsHaveAKnownFormAndThePageShowsNobodysJobs) {
  Config config = Valid();
  config.access.admins = {"uid:0", "token:ann", "tls:bob"};
  EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
  config.quotas.exempt = {"ann"};
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("quotas.exempt: \"ann\" is no principal"));
  config.quotas.exempt.clear();
  config.access.own_only = true;
  config.web.address = "127.0.0.1:0";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("the page has no login"));
}

TEST(CheckConfig, RelativePathsAndBadAddressesAreRefused) {
  Config config = Valid();
  config.models.models["m"] = "here/model.gguf";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("models.m: must be an absolute path"));
  config = Valid();
  config.metrics.address = "9464";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("must be HOST:PORT"));
  config = Valid();
  config.state_dir = "/" + std::string(200, 'x');
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("107"));
  config = Valid();
  config.worker.device = "tpu";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("auto, cuda or cpu"));
}

TEST(CheckConfig, TheWebPageStaysOnThisMachine) {
  Config config = Valid();
  for (const char* good : {"127.0.0.1:9466", "localhost:0", "[::1]:9466", ""}) {
    config.web.address = good;
    EXPECT_TRUE(CheckConfig(config).ok()) << CheckConfig(config);
  }
  for (const char* bad : {"0.0.0.0:9466", "192.168.1.2:9466", "[::]:9466", "myhost:9466"}) {
    config.web.address = bad;
    EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("ssh -L")) << bad;
  }
  config.web.address = "9466";
  EXPECT_THAT(std::string(CheckConfig(config).message()), HasSubstr("must be HOST:PORT"));
}

TEST(ResolveModel, KnownNamesLeadToTheirPath) {
  ModelsConfig models;
  models.models["smollm2"] = "/m/s.gguf";
  EXPECT_EQ(*ResolveModel(models, "models/smollm2"), "/m/s.gguf");
  const auto unknown = ResolveModel(models, "models/smolm2");
  EXPECT_TRUE(absl::IsNotFound(unknown.status()));
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("did you mean models/smollm2?"));
  EXPECT_TRUE(absl::IsInvalidArgument(ResolveModel(models, "smollm2").status()));
}

TEST(ResolveModel, PathsStayBelowTheRoots) {
  namespace fs = std::filesystem;
  const fs::path dir = fs::canonical(::testing::TempDir()) / absl::StrCat("models-", getpid());
  fs::create_directories(dir / "root/sub");
  fs::create_directories(dir / "root2");
  std::ofstream(dir / "root/sub/m.gguf") << "x";
  std::ofstream(dir / "secret") << "x";
  fs::create_symlink(dir / "secret", dir / "root/link");
  ModelsConfig models;
  models.roots = {(dir / "root").string()};
  EXPECT_EQ(*ResolveModel(models, (dir / "root/sub/m.gguf").string()), (dir / "root/sub/m.gguf").string());
  for (const fs::path& bad : {dir / "secret", dir / "root/../secret", dir / "root/link", dir / "root2",
                              dir / "root/missing", dir / "nowhere"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(ResolveModel(models, bad.string()).status())) << bad;
  }
  fs::remove_all(dir);
}

}  // namespace
}  // namespace finetuned::config
