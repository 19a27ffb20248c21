#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct mg_context;

namespace finetuned::web {

struct Request {
  std::string method;  // "GET"
  std::string path;    // decoded, with . and .. resolved: "/api/jobs/x"
  std::string query;   // as sent, without the question mark
  std::string host;    // the header Host, "" when there is none
  std::string site;    // the header Sec-Fetch-Site
};

struct Response {
  int code = 200;
  std::string type = "application/json";
  std::string body;
};

// HTTP/1.1 by civetweb, answering every request by one function; it serves no files.
class HttpServer {
 public:
  // `handler` is called on the server's threads. Listens on "127.0.0.1:9466"; port 0: any free one.
  // UNAVAILABLE when it cannot.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           std::function<Response(const Request&)> handler);
  // Waits for requests that are being answered.
  ~HttpServer();
  int port() const;

 private:
  explicit HttpServer(std::function<Response(const Request&)> handler) : handler_(std::move(handler)) {}
  friend struct Callbacks;

  const std::function<Response(const Request&)> handler_;
  mg_context* context_ = nullptr;
};

}  // namespace finetuned::web
