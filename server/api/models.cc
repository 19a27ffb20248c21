#include "server/api/models.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/format/hf_config.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/shapes.h"
#include "server/api/error.h"

namespace finetuned::api {
namespace {

// Changes when the model on disk changes: a file's size and time, for a folder those of its config.json.
std::string Stamp(const std::string& path) {
  std::string stamp;
  for (const std::string& file : {path, path + "/config.json"}) {
    struct stat info;
    if (stat(file.c_str(), &info) != 0) continue;
    absl::StrAppend(&stamp, info.st_ino, ".", info.st_size, ".", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ";");
  }
  return stamp;
}

// A problem with the model itself is the caller's to know, but not where the model lies.
absl::Status ForField(const absl::Status& status, const std::string& field, const std::string& name) {
  std::string text = WithoutPaths(std::string(status.message()));
  if (!absl::StartsWith(text, name)) text = absl::StrCat(name, ": ", text);
  switch (status.code()) {
    case absl::StatusCode::kUnimplemented:
      return NotAvailable(field, text);
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kInvalidArgument:
      return InvalidField(field, text);
    default:
      return absl::Status(status.code(), text);
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const text::Tokenizer>> Model::Tokenizer() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (tokenizer_ == nullptr) {
    auto loaded = source_->LoadTokenizer();
    if (!loaded.ok()) return loaded.status();
    tokenizer_ = *std::move(loaded);
  }
  return tokenizer_;
}

absl::StatusOr<std::shared_ptr<const Model>> Models::Open(const std::string& base_model,
                                                          const std::string& field) {
  const absl::StatusOr<std::string> path = config::ResolveModel(config_, base_model);
  if (!path.ok()) return ForField(path.status(), field, base_model);
  const std::string stamp = Stamp(*path);
  std::lock_guard<std::mutex> lock(mutex_);
  Entry& entry = open_[*path];
  if (entry.model == nullptr || entry.stamp != stamp) {
    auto source = format::OpenModel(*path);
    if (!source.ok()) {
      open_.erase(*path);
      return ForField(source.status(), field, base_model);
    }
    entry = {std::make_shared<const Model>(*path, *std::move(source)), stamp};
  }
  entry.last_used = ++clock_;
  const std::shared_ptr<const Model> model = entry.model;
  while (open_.size() > kKept) {
    open_.erase(std::min_element(open_.begin(), open_.end(), [](const auto& a, const auto& b) {
      return a.second.last_used < b.second.last_used;
    }));
  }
  return model;
}

absl::StatusOr<format::ModelConfig> Models::Shape(const std::string& base_model, const std::string& field) {
  constexpr absl::string_view kShapes = "shapes/";
  if (absl::StartsWith(base_model, kShapes)) {
    auto config = plan::FindShape(base_model.substr(kShapes.size()));
    if (!config.ok()) return ForField(config.status(), field, base_model);
    return config;
  }
  const absl::StatusOr<std::string> path = config::ResolveModel(config_, base_model);
  if (!path.ok()) return ForField(path.status(), field, base_model);
  std::ifstream file(*path + "/config.json", std::ios::binary);
  if (!file) {
    const auto model = Open(base_model, field);
    if (!model.ok()) return model.status();
    return (*model)->source().config();
  }
  std::stringstream text;
  text << file.rdbuf();
  auto config = format::ParseHfConfig(text.str(), "", *path);
  if (!config.ok()) return ForField(config.status(), field, base_model);
  return config;
}

std::vector<v1::ModelInfo> Models::Describe() {
  std::vector<v1::ModelInfo> out;
  for (const auto& [name, path] : config_.models) {
    v1::ModelInfo info;
    info.set_name(absl::StrCat("models/", name));
    const auto model = Open(info.name());
    info.set_available(model.ok());
    if (model.ok()) {
      info.set_architecture((*model)->source().config().architecture);
      info.set_parameters(plan::CountParameters((*model)->source().config()));
    } else {
      info.set_problem(WithoutPaths(std::string(model.status().message())));
    }
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace finetuned::api
