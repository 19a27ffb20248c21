#include "engine/reward/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace finetuned::reward {
namespace {

using nlohmann::json;
using testing::HasSubstr;

bool Fits(const std::string& schema, const std::string& value) {
  const auto parsed = JsonSchema::Parse(schema);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() && parsed->Accepts(json::parse(value));
}

TEST(JsonSchema, ChecksTypesAndValues) {
  EXPECT_TRUE(Fits(R"({"type": "integer"})", "3"));
  EXPECT_TRUE(Fits(R"({"type": "integer"})", "3.0"));
  EXPECT_FALSE(Fits(R"({"type": "integer"})", "3.5"));
  EXPECT_TRUE(Fits(R"({"type": ["null", "string"]})", "null"));
  EXPECT_FALSE(Fits(R"({"type": "string"})", "1"));
  EXPECT_TRUE(Fits(R"({"enum": [1, "a"]})", "\"a\""));
  EXPECT_FALSE(Fits(R"({"enum": []})", "1"));
  EXPECT_FALSE(Fits(R"({"const": null})", "1"));
  EXPECT_TRUE(Fits("true", "[]"));
  EXPECT_FALSE(Fits("false", "[]"));
}

TEST(JsonSchema, ChecksNumbersAndStrings) {
  EXPECT_FALSE(Fits(R"({"minimum": 3})", "2.9"));
  EXPECT_FALSE(Fits(R"({"exclusiveMaximum": 3})", "3"));
  EXPECT_TRUE(Fits(R"({"multipleOf": 0.1})", "0.3"));
  EXPECT_FALSE(Fits(R"({"multipleOf": 2})", "3"));
  EXPECT_TRUE(Fits(R"({"maxLength": 2})", "\"\u00e4\u00f6\"")) << "code points, not bytes";
  EXPECT_FALSE(Fits(R"({"minLength": 3})", "\"ab\""));
  EXPECT_TRUE(Fits(R"({"pattern": "^a+$"})", "\"aaa\""));
  EXPECT_TRUE(Fits(R"({"minimum": 3})", "\"no number\"")) << "rules are of their type only";
}

TEST(JsonSchema, ChecksArraysAndObjects) {
  const std::string person =
      R"({"type": "object", "required": ["name"], "additionalProperties": false,
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"},
    "maxItems": 2, "uniqueItems": true}}})";
  EXPECT_TRUE(Fits(person, R"({"name": "x", "tags": ["a", "b"]})"));
  EXPECT_FALSE(Fits(person, R"({"tags": []})"));
  EXPECT_FALSE(Fits(person, R"({"name": "x", "age": 3})"));
  EXPECT_FALSE(Fits(person, R"({"name": "x", "tags": ["a", "a"]})"));
  EXPECT_FALSE(Fits(person, R"({"name": "x", "tags": [1]})"));
  EXPECT_FALSE(Fits(R"({"prefixItems": [{"type": "string"}], "items": false})", R"(["a", 1])"));
  EXPECT_TRUE(Fits(R"({"contains": {"const": 2}})", "[1, 2]"));
}

TEST(JsonSchema, Combines) {
  EXPECT_FALSE(Fits(R"({"oneOf": [{"type": "number"}, {"const": 1}]})", "1"));
  EXPECT_TRUE(Fits(R"({"anyOf": [{"type": "number"}, {"const": 1}]})", "1"));
  EXPECT_FALSE(Fits(R"({"allOf": [{"minimum": 1}, {"maximum": 0}]})", "1"));
  EXPECT_FALSE(Fits(R"({"not": {"type": "number"}})", "1"));
}

TEST(JsonSchema, RefusesWhatItWouldNotCheck) {
  const auto message = [](const std::string& schema) {
    return std::string(JsonSchema::Parse(schema).status().message());
  };
  EXPECT_THAT(message(R"({"properties": {"a": {"$ref": "#/x"}}})"),
              HasSubstr("schema/properties/a/$ref: this keyword is not supported"));
  EXPECT_THAT(message(R"({"type": "strng"})"), HasSubstr("there is no type \"strng\""));
  EXPECT_THAT(message(R"x({"pattern": "(?=x)"})x"), HasSubstr("RE2"));
  EXPECT_THAT(message("{"), HasSubstr("schema"));
  EXPECT_THAT(message("3"), HasSubstr("a schema is an object"));
}

TEST(JsonSchema, GivesUpInsteadOfTakingLong) {
  // 500 items with 500 rules each: more than kMaxSteps, and all of them hold.
  std::string rules = "true", items = "1";
  for (int i = 1; i < 500; ++i) {
    rules += ", true";
    items += ", 1";
  }
  const std::string schema = R"({"items": {"allOf": [)" + rules + "]}}";
  EXPECT_TRUE(Fits(schema, "[1, 1]"));
  EXPECT_FALSE(Fits(schema, "[" + items + "]"));
  EXPECT_FALSE(Fits(R"({"not": )" + schema + "}", "[" + items + "]"))
      << "giving up is not turned round";
}

}  // namespace
}  // namespace finetuned::reward
