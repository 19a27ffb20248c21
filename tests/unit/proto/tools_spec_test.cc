// Jobs that train nothing: what is checked, and the defaults.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/spec/resolve.h"
#include "proto/spec/tools.h"

namespace finetuned::spec {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

v1::JobSpec Export(const std::string& format, const std::string& quantization) {
  v1::JobSpec spec;
  spec.set_base_model("models/tiny");
  spec.mutable_export_()->set_format(format);
  spec.mutable_export_()->set_quantization(quantization);
  return spec;
}

std::vector<std::string> Paths(const v1::JobSpec& spec) {
  std::vector<std::string> paths;
  for (const Violation& violation : ValidateSpec(spec)) paths.push_back(violation.path);
  return paths;
}

TEST(Tools, NeedNoDataset) {
  EXPECT_THAT(Paths(Export("gguf", "q4_k_m")), IsEmpty());
  v1::JobSpec spec;
  spec.set_base_model("models/tiny");
  spec.mutable_evaluate();
  EXPECT_THAT(Paths(spec), IsEmpty());
  EXPECT_EQ(MethodName(spec), "evaluate");
}

TEST(Tools, WrongFieldsAreNamed) {
  EXPECT_THAT(Paths(Export("", "")), ElementsAre("job.spec.export.format"));
  EXPECT_THAT(Paths(Export("gguf", "q3_k")), ElementsAre("job.spec.export.quantization"));
  EXPECT_THAT(Paths(Export("merged", "q8_0")), ElementsAre("job.spec.export.quantization"));
  EXPECT_THAT(Paths(Export("gguf_lora", "")), ElementsAre("job.spec.init_adapter"));
  v1::JobSpec held_out = Export("gguf", "");
  held_out.set_eval_dataset("datasets/rows");
  EXPECT_THAT(Paths(held_out), ElementsAre("job.spec.eval_dataset"));
}

TEST(Tools, DefaultsAreFilledIn) {
  const auto gguf = ResolveSpec(Export("gguf", ""), {});
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ(gguf->export_().quantization(), "q4_k_m");
  EXPECT_EQ(gguf->export_().max_shard_bytes(), 5'000'000'000);
  EXPECT_EQ(gguf->quantization().base(), "none");
  EXPECT_EQ(ResolveSpec(Export("merged", ""), {})->export_().quantization(), "bf16");

  v1::JobSpec evaluate;
  evaluate.set_base_model("models/tiny");
  evaluate.mutable_evaluate()->add_bases("nf4");
  evaluate.mutable_evaluate()->add_bases("int8");
  const auto resolved = ResolveSpec(evaluate, {});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_THAT(resolved->evaluate().matmul_precisions(), ElementsAre("bf16"));
  EXPECT_EQ(resolved->quantization().base(), "int8");  // the largest is planned for
}

}  // namespace
}  // namespace finetuned::spec
