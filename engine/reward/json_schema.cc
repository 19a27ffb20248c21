#include "engine/reward/json_schema.h"

#include <re2/re2.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/format/strict_json.h"

namespace finetuned::reward {

using nlohmann::json;

// One schema. Unset members do not restrict.
struct JsonSchema::Node {
  using Ptr = std::shared_ptr<const Node>;
  bool nothing = false;  // the schema `false`
  std::vector<std::string> types;
  std::optional<json> constant;
  std::vector<json> choices;
  bool has_choices = false;
  std::vector<Ptr> all_of, any_of, one_of;
  Ptr negated;
  std::optional<double> minimum, maximum, above, below, multiple_of;
  std::optional<double> min_length, max_length, min_items, max_items, min_properties,
      max_properties;
  std::shared_ptr<const RE2> pattern;
  Ptr items, contains, additional;
  std::vector<Ptr> prefix_items;
  bool unique_items = false;
  std::map<std::string, Ptr> properties;
  std::vector<std::string> required;
};

namespace {

using Node = JsonSchema::Node;

const std::set<std::string> kTypes = {"null",   "boolean", "object", "array",
                                      "number", "integer", "string"};
const std::set<std::string> kAnnotations = {"$schema",     "$id",     "title",
                                            "description", "default", "examples",
                                            "$comment",    "format",  "deprecated"};

struct SchemaError {
  std::string message;
};

class Reader {
 public:
  Node::Ptr Read(const json& schema, const std::string& at) {
    auto node = std::make_shared<Node>();
    if (schema.is_boolean()) {
      node->nothing = !schema.get<bool>();
      return node;
    }
    if (!schema.is_object()) Fail(at, "a schema is an object, true or false");
    for (const auto& [key, value] : schema.items()) {
      const std::string here = absl::StrCat(at, "/", key);
      if (kAnnotations.contains(key)) continue;
      if (!Logic(key, value, here, node.get()) && !Number(key, value, here, node.get()) &&
          !Container(key, value, here, node.get())) {
        Fail(here, "this keyword is not supported");
      }
    }
    return node;
  }

 private:
  [[noreturn]] static void Fail(const std::string& at, const std::string& problem) {
    throw SchemaError{absl::StrCat("schema", at, ": ", problem)};
  }

  std::vector<Node::Ptr> List(const json& value, const std::string& at) {
    if (!value.is_array() || value.empty()) Fail(at, "must be a list of schemas that is not empty");
    std::vector<Node::Ptr> out;
    for (size_t i = 0; i < value.size(); ++i)
      out.push_back(Read(value[i], absl::StrCat(at, "/", i)));
    return out;
  }

  static std::vector<std::string> Strings(const json& value, const std::string& at) {
    if (value.is_string()) return {value.get<std::string>()};
    std::vector<std::string> out;
    if (!value.is_array()) Fail(at, "must be a string or a list of strings");
    for (const json& item : value) {
      if (!item.is_string()) Fail(at, "must be a list of strings");
      out.push_back(item.get<std::string>());
    }
    return out;
  }

  bool Logic(const std::string& key, const json& value, const std::string& at, Node* node) {
    if (key == "type") {
      node->types = Strings(value, at);
      for (const std::string& type : node->types) {
        if (!kTypes.contains(type)) Fail(at, absl::StrCat("there is no type \"", type, "\""));
      }
    } else if (key == "enum") {
      if (!value.is_array()) Fail(at, "must be a list");
      node->has_choices = true;
      node->choices = value.get<std::vector<json>>();
    } else if (key == "const") {
      node->constant = value;
    } else if (key == "allOf") {
      node->all_of = List(value, at);
    } else if (key == "anyOf") {
      node->any_of = List(value, at);
    } else if (key == "oneOf") {
      node->one_of = List(value, at);
    } else if (key == "not") {
      node->negated = Read(value, at);
    } else {
      return false;
    }
    return true;
  }

  static bool Number(const std::string& key, const json& value, const std::string& at, Node* node) {
    static const auto* const kNumbers = new std::map<std::string, std::optional<double> Node::*>{
        {"minimum", &Node::minimum},
        {"maximum", &Node::maximum},
        {"exclusiveMinimum", &Node::above},
        {"exclusiveMaximum", &Node::below},
        {"multipleOf", &Node::multiple_of},
        {"minLength", &Node::min_length},
        {"maxLength", &Node::max_length},
        {"minItems", &Node::min_items},
        {"maxItems", &Node::max_items},
        {"minProperties", &Node::min_properties},
        {"maxProperties", &Node::max_properties}};
    const auto found = kNumbers->find(key);
    if (found == kNumbers->end()) return false;
    if (!value.is_number()) Fail(at, "must be a number");
    node->*(found->second) = value.get<double>();
    if (key == "multipleOf" && *node->multiple_of <= 0) Fail(at, "must be above 0");
    return true;
  }

  bool Container(const std::string& key, const json& value, const std::string& at, Node* node) {
    if (key == "pattern") {
      if (!value.is_string()) Fail(at, "must be a string");
      RE2::Options options;
      options.set_log_errors(false);
      auto pattern = std::make_shared<RE2>(value.get<std::string>(), options);
      if (!pattern->ok()) Fail(at, absl::StrCat("is no pattern of RE2: ", pattern->error()));
      node->pattern = std::move(pattern);
    } else if (key == "items") {
      node->items = Read(value, at);
    } else if (key == "contains") {
      node->contains = Read(value, at);
    } else if (key == "prefixItems") {
      node->prefix_items = List(value, at);
    } else if (key == "uniqueItems") {
      if (!value.is_boolean()) Fail(at, "must be true or false");
      node->unique_items = value.get<bool>();
    } else if (key == "required") {
      node->required = Strings(value, at);
    } else if (key == "additionalProperties") {
      node->additional = Read(value, at);
    } else if (key == "properties") {
      if (!value.is_object()) Fail(at, "must be an object");
      for (const auto& [name, schema] : value.items()) {
        node->properties[name] = Read(schema, absl::StrCat(at, "/", name));
      }
    } else {
      return false;
    }
    return true;
  }
};

double CodePoints(const std::string& text) {
  return static_cast<double>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool Within(double n, const std::optional<double>& low, const std::optional<double>& high) {
  return (!low || n >= *low) && (!high || n <= *high);
}

class Matcher {
 public:
  bool Fits(const Node& s, const json& v) {
    if (++steps_ > JsonSchema::kMaxSteps || s.nothing) return false;
    if (!s.types.empty() &&
        std::none_of(s.types.begin(), s.types.end(),
                     [&](const std::string& type) { return IsType(v, type); })) {
      return false;
    }
    if (s.constant && !(v == *s.constant)) return false;
    if (s.has_choices && std::find(s.choices.begin(), s.choices.end(), v) == s.choices.end())
      return false;
    if (v.is_number() && !Number(s, v.get<double>())) return false;
    if (v.is_string() && !Text(s, v.get_ref<const std::string&>())) return false;
    if (v.is_array() && !Array(s, v)) return false;
    if (v.is_object() && !Object(s, v)) return false;
    return Combined(s, v);
  }
  // The limit was hit: the answer is "does not fit", whatever `not` made of it.
  bool gave_up() const { return steps_ > JsonSchema::kMaxSteps; }

 private:
  static bool IsType(const json& v, const std::string& type) {
    if (type == "null") return v.is_null();
    if (type == "boolean") return v.is_boolean();
    if (type == "object") return v.is_object();
    if (type == "array") return v.is_array();
    if (type == "string") return v.is_string();
    if (type == "number") return v.is_number();
    return v.is_number_integer() ||
           (v.is_number_float() && std::floor(v.get<double>()) == v.get<double>());
  }

  static bool Number(const Node& s, double n) {
    if (!Within(n, s.minimum, s.maximum)) return false;
    if ((s.above && n <= *s.above) || (s.below && n >= *s.below)) return false;
    if (!s.multiple_of) return true;
    const double quotient = n / *s.multiple_of;
    return std::abs(quotient - std::round(quotient)) <= 1e-9 * std::max(1.0, std::abs(quotient));
  }

  static bool Text(const Node& s, const std::string& text) {
    if ((s.min_length || s.max_length) && !Within(CodePoints(text), s.min_length, s.max_length))
      return false;
    return s.pattern == nullptr || RE2::PartialMatch(text, *s.pattern);
  }

  bool Array(const Node& s, const json& v) {
    if (!Within(static_cast<double>(v.size()), s.min_items, s.max_items)) return false;
    for (size_t i = 0; i < v.size(); ++i) {
      const Node* rule = i < s.prefix_items.size() ? s.prefix_items[i].get() : s.items.get();
      if (rule != nullptr && !Fits(*rule, v[i])) return false;
    }
    if (s.unique_items && std::set<json>(v.begin(), v.end()).size() != v.size()) return false;
    return s.contains == nullptr || std::any_of(v.begin(), v.end(), [&](const json& item) {
             return Fits(*s.contains, item);
           });
  }

  bool Object(const Node& s, const json& v) {
    if (!Within(static_cast<double>(v.size()), s.min_properties, s.max_properties)) return false;
    for (const std::string& name : s.required) {
      if (!v.contains(name)) return false;
    }
    for (const auto& [name, value] : v.items()) {
      const auto known = s.properties.find(name);
      const Node* rule = known != s.properties.end() ? known->second.get() : s.additional.get();
      if (rule != nullptr && !Fits(*rule, value)) return false;
    }
    return true;
  }

  bool Combined(const Node& s, const json& v) {
    const auto fits = [&](const Node::Ptr& rule) { return Fits(*rule, v); };
    if (!std::all_of(s.all_of.begin(), s.all_of.end(), fits)) return false;
    if (!s.any_of.empty() && std::none_of(s.any_of.begin(), s.any_of.end(), fits)) return false;
    if (!s.one_of.empty() && std::count_if(s.one_of.begin(), s.one_of.end(), fits) != 1)
      return false;
    return s.negated == nullptr || !Fits(*s.negated, v);
  }

  int steps_ = 0;
};

}  // namespace

absl::StatusOr<JsonSchema> JsonSchema::Parse(std::string_view text) {
  auto parsed = format::ParseStrictJson(absl::string_view(text.data(), text.size()), "schema");
  if (!parsed.ok()) return parsed.status();
  try {
    return JsonSchema(Reader().Read(*parsed, ""));
  } catch (const SchemaError& error) {
    return absl::InvalidArgumentError(error.message);
  }
}

bool JsonSchema::Accepts(const json& value) const {
  Matcher matcher;
  const bool fits = matcher.Fits(*root_, value);
  return fits && !matcher.gave_up();
}

}  // namespace finetuned::reward
