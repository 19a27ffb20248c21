#include "server/web/web_page.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "api_testing.h"

namespace finetuned::web {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(IsOwnHost, IsThisMachineUnderItsOwnNames) {
  for (const char* host : {"localhost", "localhost:9466", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:9466", "127.1.2.3:80",
                           "[::1]", "[::1]:9466"}) {
    EXPECT_TRUE(IsOwnHost(host)) << host;
  }
  for (const char* host : {"", "evil.example", "evil.example:9466", "127.0.0.1.evil.example", "localhost.evil.example",
                           "127.evil.example.x", "10.0.0.1", "[::2]:9466", "localhost:port", "127.0.0.999", "127.0.0.1:"}) {
    EXPECT_FALSE(IsOwnHost(host)) << host;
  }
}

TEST(QueryValue, IsDecoded) {
  EXPECT_EQ(QueryValue("keys=loss%2Ceval_loss&max_points=5", "keys"), "loss,eval_loss");
  EXPECT_EQ(QueryValue("keys=a&max_points=5", "max_points"), "5");
  EXPECT_EQ(QueryValue("", "keys"), "");
}

class WebPageTest : public api::ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    page_ = std::make_unique<WebPage>(server_->LocalChannel());
  }
  void TearDown() override {
    page_.reset();
    ApiTest::TearDown();
  }
  Response Get(const std::string& path, const std::string& query = "") {
    return page_->Answer({"GET", path, query, "127.0.0.1:9466", ""});
  }
  nlohmann::json Json(const std::string& path, const std::string& query = "") {
    const Response response = Get(path, query);
    EXPECT_EQ(response.code, 200) << response.body;
    return nlohmann::json::parse(response.body);
  }
  std::unique_ptr<WebPage> page_;
};

TEST_F(WebPageTest, ShowsWhatTheApiKnows) {
  Create(GoodJob("curves"));
  worker_->WaitForRun();
  worker_->RunToTheEnd(4);
  WaitFor("jobs/curves", v1::SUCCEEDED);
  EXPECT_EQ(Json("/api/server")["version"], "test");
  const auto jobs = Json("/api/jobs")["jobs"];
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0]["name"], "jobs/curves");
  EXPECT_EQ(jobs[0]["state"], "SUCCEEDED");
  EXPECT_FALSE(jobs[0].contains("memory"));  // the list is asked for every two seconds
  EXPECT_GT(Json("/api/jobs/curves")["memory"]["items"].size(), 3u);
  const auto series = Json("/api/jobs/curves/metrics", "keys=loss&max_points=100")["series"];
  ASSERT_EQ(series.size(), 1u);
  EXPECT_EQ(series[0]["key"], "loss");
  EXPECT_EQ(series[0]["values"].size(), 4u);
  EXPECT_GE(Json("/api/jobs/curves/events", "type=state_changed")["events"].size(), 3u);
  EXPECT_TRUE(Json("/api/jobs/curves/checkpoints").is_object());
}

TEST_F(WebPageTest, ErrorsAreJsonWithTheirHttpCode) {
  for (const auto& [path, code] : {std::pair{"/api/jobs/nothing", 404}, std::pair{"/api/jobs/nothing/metrics", 404},
                                   std::pair{"/api/jobs/x/y/z", 404}, std::pair{"/api/else", 404},
                                   std::pair{"/api/jobs/NOT%20AN%20ID", 400}, std::pair{"/else.html", 404},
                                   std::pair{"/api/jobs/x/events", 400}}) {
    const Response response = Get(path);
    EXPECT_EQ(response.code, code) << path << ": " << response.body;
    EXPECT_FALSE(nlohmann::json::parse(response.body)["error"].get<std::string>().empty());
  }
}

TEST_F(WebPageTest, OnlyReads) {
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    EXPECT_EQ(page_->Answer({method, "/api/jobs", "", "localhost", ""}).code, 405) << method;
  }
  EXPECT_EQ(page_->Answer({"HEAD", "/", "", "localhost", ""}).code, 200);
}

TEST_F(WebPageTest, OtherSitesGetNothing) {
  // A site whose name was rebound to 127.0.0.1 sends its own name as Host.
  EXPECT_EQ(page_->Answer({"GET", "/api/jobs", "", "evil.example:9466", ""}).code, 403);
  EXPECT_EQ(page_->Answer({"GET", "/", "", "", ""}).code, 403);
  EXPECT_EQ(page_->Answer({"GET", "/api/jobs", "", "localhost", "cross-site"}).code, 403);
  EXPECT_EQ(page_->Answer({"GET", "/api/jobs", "", "localhost", "same-origin"}).code, 200);
  EXPECT_EQ(page_->Answer({"GET", "/", "", "localhost", "cross-site"}).code, 200);  // following a link
}

TEST_F(WebPageTest, LoadsNothingFromElsewhere) {
  for (const char* path : {"/", "/page.css", "/page.js"}) {
    const Response response = Get(path);
    EXPECT_EQ(response.code, 200);
    EXPECT_GT(response.body.size(), 500u);
    EXPECT_THAT(response.body, Not(HasSubstr("https://")));
    EXPECT_THAT(response.body, Not(HasSubstr("innerHTML")));
  }
}

// One request over a socket, byte for byte.
std::string Ask(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) answer.append(buffer, static_cast<size_t>(n));
  close(fd);
  return answer;
}

TEST(HttpServer, AnswersWithSecurityHeadersAndServesNoFiles) {
  std::string path;
  auto server = HttpServer::Start("127.0.0.1:0", [&](const Request& request) {
    path = request.path;
    return Response{request.path == "/" ? 200 : 404, "text/html", request.host + " " + request.query};
  });
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  const std::string answer = Ask(port, "GET /?a=b HTTP/1.1\r\nHost: localhost:9\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("HTTP/1.1 200 OK"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nlocalhost:9 a=b"));
  EXPECT_THAT(answer, HasSubstr("Content-Security-Policy: default-src 'none'"));
  EXPECT_THAT(answer, HasSubstr("X-Content-Type-Options: nosniff"));
  EXPECT_THAT(answer, HasSubstr("frame-ancestors 'none'"));
  EXPECT_THAT(Ask(port, "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"), Not(HasSubstr("root:")));
  EXPECT_THAT(Ask(port, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Not(HasSubstr("\r\n\r\nlocalhost")));
  EXPECT_TRUE(absl::IsUnavailable(HttpServer::Start("127.0.0.1:" + std::to_string(port), [](const Request&) {
                                    return Response();
                                  }).status()));
}

}  // namespace
}  // namespace finetuned::web
