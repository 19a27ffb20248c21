#include "engine/train/base_model_cache.h"

#include "engine/train/device.h"

namespace finetuned::train {

BaseModelCache::BaseModelCache() : impl_(std::make_unique<Impl>()) {}
BaseModelCache::~BaseModelCache() = default;

absl::StatusOr<std::shared_ptr<model::BaseModel>> LoadThroughCache(BaseModelCache* cache,
                                                                   const format::ModelSource& source,
                                                                   const std::string& path,
                                                                   const model::LoadOptions& options, bool* warm) {
  std::shared_ptr<model::BaseModel> alone;
  std::shared_ptr<model::BaseModel>& kept = cache != nullptr ? cache->impl()->model : alone;
  const bool same = kept != nullptr && kept->fingerprint == source.fingerprint() && kept->options == options;
  if (warm != nullptr) *warm = same;
  if (same) return kept;
  kept.reset();
  ReleaseCachedMemory(options.device);
  auto loaded = model::LoadBaseModel(source, path, options);
  if (loaded.ok()) kept = *loaded;
  return loaded;
}

}  // namespace finetuned::train
