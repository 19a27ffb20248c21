#include "engine/text/jinja_json.h"

#include <limits>

namespace finetuned::text::jinja {
namespace {

Value Text(Runtime& runtime, const std::string& bytes, bool user) {
  if (!ValidUtf8(bytes)) return runtime.Fail("a string of the input is not valid UTF-8");
  StrBuilder builder;
  builder.Append(bytes, user);
  return runtime.String(builder.Take());
}

Value Convert(Runtime& runtime, const Json& json, bool user, int depth) {
  if (!runtime.ok()) return Value();
  if (depth > runtime.max_depth()) {
    return runtime.Exhaust(Cat("the input is nested more than ", runtime.max_depth(), " deep"));
  }
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::string:
      return Text(runtime, json.get_ref<const std::string&>(), user);
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return runtime.Fail("an integer of the input does not fit 64 bits with sign");
      }
      return Value(json.get<int64_t>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(Convert(runtime, item, user, depth + 1));
      return runtime.List(std::move(items));
    }
    case Json::value_t::object: {
      auto dict = std::make_shared<Dict>();
      for (const auto& [key, value] : json.items()) {
        const Value name = Text(runtime, key, user);
        Value item = Convert(runtime, value, user, depth + 1);
        if (!runtime.ok() || !runtime.SetItem(dict.get(), name, std::move(item))) return Value();
      }
      return runtime.FinishDict(std::move(dict));
    }
    default:
      return Value(None{});
  }
}

}  // namespace

Value FromJsonValue(Runtime& runtime, const Json& json, bool user) {
  return Convert(runtime, json, user, 1);
}

}  // namespace finetuned::text::jinja
