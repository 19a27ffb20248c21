#include "server/web/http_server.h"

#include <civetweb.h>

#include <mutex>

#include "absl/strings/str_cat.h"

namespace finetuned::web {
namespace {

// What every answer carries: nothing of other origins is loaded, nobody may frame or sniff the page, nothing
// is kept.
constexpr char kHeaders[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n"
    "Cache-Control: no-store\r\n";

std::string Header(const mg_connection* connection, const char* name) {
  const char* value = mg_get_header(connection, name);
  return value == nullptr ? "" : value;
}

}  // namespace

struct Callbacks {
  // Answers every request: civetweb never looks for a file.
  static int OnRequest(mg_connection* connection) {
    const mg_request_info* info = mg_get_request_info(connection);
    const auto* server = static_cast<const HttpServer*>(info->user_data);
    const auto text = [](const char* s) { return std::string(s == nullptr ? "" : s); };
    const Response response =
        server->handler_({text(info->request_method), text(info->local_uri), text(info->query_string),
                          Header(connection, "Host"), Header(connection, "Sec-Fetch-Site")});
    mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n%s%s\r\n",
              response.code, mg_get_response_code_text(connection, response.code), response.type.c_str(),
              response.body.size(), response.code == 405 ? "Allow: GET, HEAD\r\n" : "", kHeaders);
    if (text(info->request_method) != "HEAD") mg_write(connection, response.body.data(), response.body.size());
    return response.code;
  }
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              std::function<Response(const Request&)> handler) {
  static std::once_flag once;
  std::call_once(once, [] { mg_init_library(MG_FEATURES_DEFAULT); });
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(handler)));
  mg_callbacks callbacks = {};
  callbacks.begin_request = &Callbacks::OnRequest;
  callbacks.log_message = [](const mg_connection*, const char*) { return 1; };  // not to standard error
  const char* options[] = {"listening_ports", address.c_str(), "num_threads", "4", "request_timeout_ms", "10000",
                           "max_request_size", "16384", nullptr};
  server->context_ = mg_start(&callbacks, server.get(), options);
  if (server->context_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("web.address: cannot listen on ", address));
  }
  return server;
}

HttpServer::~HttpServer() {
  if (context_ != nullptr) mg_stop(context_);
}

int HttpServer::port() const {
  mg_server_port port = {};
  return mg_get_server_ports(context_, 1, &port) == 1 ? port.port : 0;
}

}  // namespace finetuned::web
