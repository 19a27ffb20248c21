#include "engine/format/bnb_checkpoint.h"

#include <cmath>
#include <cstring>
#include <set>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/format/strict_json.h"

namespace finetuned::format {
namespace {

using nlohmann::json;

constexpr int64_t kBlock = 64, kNestedBlock = 256;
constexpr char kState[] = ".quant_state.bitsandbytes__";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Looks tensors up by name and keeps which of them belong to a weight.
class Parts {
 public:
  Parts(const std::string& file, const std::vector<TensorInfo>& tensors,
        const std::vector<std::span<const uint8_t>>& bytes)
      : file_(file), tensors_(tensors), bytes_(bytes) {
    for (size_t i = 0; i < tensors.size(); ++i) index_.emplace(tensors[i].name, i);
  }

  bool Has(const std::string& name) const { return index_.contains(name); }
  const std::set<std::string>& taken() const { return taken_; }
  void Take(const std::string& name) {
    if (Has(name)) taken_.insert(name);
  }

  absl::Status Bad(const std::string& name, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": tensor ", name, ": ", what));
  }

  // The bytes of a part, `count` of them where not negative.
  absl::StatusOr<std::span<const uint8_t>> Bytes(const std::string& name, int64_t count) {
    const auto it = index_.find(name);
    if (it == index_.end()) return Bad(name, "is missing; the weight was stored by bitsandbytes and needs it");
    taken_.insert(name);
    const std::span<const uint8_t> bytes = bytes_[it->second];
    if (count >= 0 && static_cast<int64_t>(bytes.size()) != count) {
      return Bad(name, absl::StrCat("expected ", count, " bytes, found ", bytes.size()));
    }
    return bytes;
  }

  // float32 numbers, all finite.
  absl::StatusOr<std::vector<float>> Floats(const std::string& name, int64_t count) {
    const absl::StatusOr<std::span<const uint8_t>> bytes = Bytes(name, 4 * count);
    if (!bytes.ok()) return bytes.status();
    const TensorInfo& info = tensors_[index_.at(name)];
    if (info.dtype != DType::kF32) return Bad(name, absl::StrCat("expected F32, found ", DTypeName(info.dtype)));
    std::vector<float> values(static_cast<size_t>(count));
    std::memcpy(values.data(), bytes->data(), bytes->size());
    for (float value : values) {
      if (!std::isfinite(value)) return Bad(name, absl::StrCat("holds ", value));
    }
    return values;
  }

  const TensorInfo& Info(const std::string& name) const { return tensors_[index_.at(name)]; }

 private:
  const std::string& file_;
  const std::vector<TensorInfo>& tensors_;
  const std::vector<std::span<const uint8_t>>& bytes_;
  std::unordered_map<std::string, size_t> index_;
  std::set<std::string> taken_;
};

struct State {
  std::vector<int64_t> shape;
  bool nested = false;
  double offset = 0;
};

// The JSON of a 4-bit weight.
absl::StatusOr<State> ReadState(const std::string& file, const std::string& name, std::span<const uint8_t> bytes) {
  const std::string where = absl::StrCat(file, ": tensor ", name);
  const auto document = ParseStrictJson(std::string(bytes.begin(), bytes.end()), where);
  if (!document.ok()) return document.status();
  State state;
  try {
    const int64_t block = document->at("blocksize");
    state.shape = document->at("shape").get<std::vector<int64_t>>();
    state.nested = document->contains("nested_offset");
    if (state.nested) state.offset = document->at("nested_offset");
    const int64_t nested_block = document->value("nested_blocksize", kNestedBlock);
    if (block != kBlock || nested_block != kNestedBlock) {
      return absl::UnimplementedError(absl::StrCat(where, ": blocks of ", block, " weights and ", nested_block,
                                                   " scales are not supported; expected 64 and 256"));
    }
  } catch (const json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", e.what()));
  }
  const bool matrix = state.shape.size() == 2 && state.shape[0] > 0 && state.shape[1] > 0 &&
                      state.shape[0] < (int64_t{1} << 31) && state.shape[1] < (int64_t{1} << 31);
  if (!matrix || !std::isfinite(state.offset)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": shape ", ShapeString(state.shape), " and nested_offset ",
                                                   state.offset, " are not those of a matrix"));
  }
  return state;
}

absl::StatusOr<BnbWeight> ReadFourBit(const std::string& file, const std::string& name, bool nf4, Parts* parts) {
  const std::string state_name = absl::StrCat(name, kState, nf4 ? "nf4" : "fp4");
  const auto json_bytes = parts->Bytes(state_name, -1);
  if (!json_bytes.ok()) return json_bytes.status();
  const auto state = ReadState(file, state_name, *json_bytes);
  if (!state.ok()) return state.status();
  BnbWeight w;
  w.kind = nf4 ? BnbWeight::Kind::kNf4 : BnbWeight::Kind::kFp4;
  w.shape = state->shape;
  w.nested = state->nested;
  w.offset = static_cast<float>(state->offset);
  const int64_t n = w.shape[0] * w.shape[1], blocks = CeilDiv(n, kBlock);
  const auto codes = parts->Bytes(name, CeilDiv(n, 2));
  if (!codes.ok()) return codes.status();
  w.codes = *codes;
  auto map = parts->Floats(name + ".quant_map", 16);
  if (!map.ok()) return map.status();
  w.code_map = *std::move(map);
  if (!w.nested) {
    auto absmax = parts->Floats(name + ".absmax", blocks);
    if (!absmax.ok()) return absmax.status();
    w.absmax = *std::move(absmax);
    return w;
  }
  const auto absmax = parts->Bytes(name + ".absmax", blocks);
  auto nested_absmax = parts->Floats(name + ".nested_absmax", CeilDiv(blocks, kNestedBlock));
  auto nested_map = parts->Floats(name + ".nested_quant_map", 256);
  for (const absl::Status& s : {absmax.status(), nested_absmax.status(), nested_map.status()}) {
    if (!s.ok()) return s;
  }
  w.absmax_codes = *absmax;
  w.nested_absmax = *std::move(nested_absmax);
  w.nested_map = *std::move(nested_map);
  return w;
}

// module: the weight's name without ".weight".
absl::StatusOr<BnbWeight> ReadInt8(const std::string& module, Parts* parts) {
  const std::string name = module + ".weight";
  BnbWeight w;
  w.kind = BnbWeight::Kind::kInt8;
  w.shape = parts->Info(name).shape;
  if (w.shape.size() != 2 || parts->Info(name).dtype != DType::kI8) {
    return parts->Bad(name, absl::StrCat("expected an I8 matrix beside ", module, ".SCB, found ",
                                         DTypeName(parts->Info(name).dtype), " ", ShapeString(w.shape)));
  }
  const auto codes = parts->Bytes(name, w.shape[0] * w.shape[1]);
  if (!codes.ok()) return codes.status();
  w.codes = *codes;
  auto absmax = parts->Floats(module + ".SCB", w.shape[0]);
  if (!absmax.ok()) return absmax.status();
  w.row_absmax = *std::move(absmax);
  if (parts->Has(module + ".weight_format")) {
    const auto layout = parts->Bytes(module + ".weight_format", -1);
    if (!layout.ok()) return layout.status();
    if (layout->empty() || (*layout)[0] != 0) return parts->Bad(module + ".weight_format", "expected 0 (rows)");
  }
  return w;
}

}  // namespace

absl::Status FoldBnbWeights(const std::string& file, std::vector<TensorInfo>* tensors,
                            std::vector<std::span<const uint8_t>>* bytes, std::map<std::string, BnbWeight>* found) {
  Parts parts(file, *tensors, *bytes);
  for (const TensorInfo& tensor : *tensors) {
    if (!absl::EndsWith(tensor.name, ".weight")) continue;
    const std::string module = tensor.name.substr(0, tensor.name.size() - 7);
    const bool nf4 = parts.Has(absl::StrCat(tensor.name, kState, "nf4"));
    const bool four_bit = nf4 || parts.Has(absl::StrCat(tensor.name, kState, "fp4"));
    if (!four_bit && !parts.Has(module + ".SCB")) continue;
    auto weight = four_bit ? ReadFourBit(file, tensor.name, nf4, &parts) : ReadInt8(module, &parts);
    if (!weight.ok()) return weight.status();
    (*found)[tensor.name] = *std::move(weight);
  }
  std::vector<TensorInfo> kept;
  std::vector<std::span<const uint8_t>> kept_bytes;
  for (size_t i = 0; i < tensors->size(); ++i) {
    TensorInfo& tensor = (*tensors)[i];
    const auto weight = found->find(tensor.name);
    if (weight == found->end() && parts.taken().contains(tensor.name)) continue;
    if (weight != found->end()) {
      tensor.dtype = DType::kBnb;
      tensor.shape = weight->second.shape;
    }
    kept.push_back(std::move(tensor));
    kept_bytes.push_back((*bytes)[i]);
  }
  *tensors = std::move(kept);
  *bytes = std::move(kept_bytes);
  return absl::OkStatus();
}

void DecodeBnb(const BnbWeight& w, std::span<float> out) {
  const int64_t n = w.shape[0] * w.shape[1], columns = w.shape[1];
  for (int64_t i = 0; i < n; ++i) {
    if (w.kind == BnbWeight::Kind::kInt8) {
      const float scale = w.row_absmax[static_cast<size_t>(i / columns)] * (1.0f / 127.0f);
      out[i] = static_cast<float>(static_cast<int8_t>(w.codes[i])) * scale;
      continue;
    }
    const size_t block = static_cast<size_t>(i / kBlock);
    const float absmax = w.nested ? w.nested_map[w.absmax_codes[block]] * w.nested_absmax[block / kNestedBlock] + w.offset
                                  : w.absmax[block];
    const uint8_t code = i % 2 == 0 ? w.codes[i / 2] >> 4 : w.codes[i / 2] & 15;
    out[i] = w.code_map[code] * absmax;
  }
}

}  // namespace finetuned::format
