#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/format/model_source.h"
#include "finetuned/v1/daemon.pb.h"
#include "server/config/config.h"

namespace finetuned::api {

// An opened base model. Immutable but for its tokenizer, which is read when first asked for.
class Model {
 public:
  Model(std::string path, std::shared_ptr<const format::ModelSource> source)
      : path_(std::move(path)), source_(std::move(source)) {}
  const std::string& path() const { return path_; }
  const format::ModelSource& source() const { return *source_; }
  absl::StatusOr<std::shared_ptr<const text::Tokenizer>> Tokenizer() const;

 private:
  const std::string path_;
  const std::shared_ptr<const format::ModelSource> source_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const text::Tokenizer> tokenizer_;
};

// Base models by the names clients use. Opened models are kept until their file changes, the most
// recently used few. Reads the disk: not for gRPC's threads. Thread safe.
class Models {
 public:
  explicit Models(config::ModelsConfig config) : config_(std::move(config)) {}

  // `base_model` as in JobSpec. Errors as INVALID_ARGUMENT, UNIMPLEMENTED, ... of `field`; no paths.
  absl::StatusOr<std::shared_ptr<const Model>> Open(const std::string& base_model,
                                                    const std::string& field = "job.spec.base_model");
  // The configuration alone: of "shapes/llama-3.1-8b" (plan/shapes.h), of a folder with no more than config.json, or of
  // a model. Errors as Open.
  absl::StatusOr<format::ModelConfig> Shape(const std::string& base_model,
                                            const std::string& field = "job.spec.base_model");
  // Every configured model, with what is wrong with those that cannot be used.
  std::vector<v1::ModelInfo> Describe();

 private:
  static constexpr size_t kKept = 4;
  struct Entry {
    std::shared_ptr<const Model> model;
    std::string stamp;       // size and time of the file
    uint64_t last_used = 0;
  };

  const config::ModelsConfig config_;
  std::mutex mutex_;
  std::map<std::string, Entry> open_;  // by path
  uint64_t clock_ = 0;
};

}  // namespace finetuned::api
