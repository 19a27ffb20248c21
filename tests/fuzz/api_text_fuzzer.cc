// Small languages of the API: page tokens, resume tokens, names, filters, texts of errors. The first byte chooses.
#include "fuzzing.h"
#include "server/api/error.h"
#include "server/api/list_filter.h"
#include "server/api/names.h"
#include "server/api/watch_token.h"

namespace {

using namespace finetuned;

void PageToken(const std::string& text) {
  if (const auto last = api::DecodePageToken("jobs", text); last.ok() && !text.empty()) {
    const auto again = api::DecodePageToken("jobs", api::EncodePageToken("jobs", *last));
    fuzz::Require(again.ok() && *again == *last, "a page token is read as it was written");
    fuzz::Require(!api::DecodePageToken("datasets", text).ok(), "a page token is of one listing");
  }
  const std::string made = api::EncodePageToken("jobs", text);
  if (made.size() < 4096) fuzz::Require(api::DecodePageToken("jobs", made).value() == text, "every position has a token");
}

void ResumeToken(const std::string& text) {
  if (const auto token = api::DecodeWatchToken(text); token.ok()) {
    fuzz::Require(api::EncodeWatchToken(*token) == text, "a resume token has one form");
  }
  if (text.size() > 100) return;
  const auto again = api::DecodeWatchToken(api::EncodeWatchToken({7, 42, text}));
  fuzz::Require(again.ok() && again->job_uid == text && again->sequence == 42 && again->epoch == 7,
                "a resume token is read as it was written");
}

void Filter(const std::string& text) {
  const auto filter = api::ListFilter::Parse(text, {"state", "method", "owner", "labels."});
  if (!filter.ok()) return;
  (void)filter->Matches([](const std::string& field) -> std::optional<std::string> {
    if (field == "state") return "RUNNING";
    return std::nullopt;
  });
}

void Name(const std::string& text) {
  const auto id = api::ParseName("jobs", text);
  if (!id.ok()) return;
  fuzz::Require("jobs/" + *id == text && api::IsValidId(*id), "a name is its collection and id");
  fuzz::Require(id->find_first_of("/.\\") == std::string::npos, "an id is no path");
}

void ErrorText(const std::string& text) {
  (void)api::ToGrpc(absl::InvalidArgumentError(text));
  if (text.find('/') != std::string::npos) return;  // may hold a path of its own, behind a letter
  const std::string shown = api::WithoutPaths("cannot read /var/lib/finetuned/" + text);
  fuzz::Require(shown.find("/var/lib") == std::string::npos, "no absolute path is shown: " + shown);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(fuzz::AsText(data + 1, size - 1));
  switch (data[0] % 5) {
    case 0: PageToken(text); break;
    case 1: ResumeToken(text); break;
    case 2: Filter(text); break;
    case 3: Name(text); break;
    default: ErrorText(text);
  }
  return 0;
}
