// A file of JSON lines; the first byte chooses the method. What validation accepts is tokenized and shown.
#include <memory>

#include "engine/data/dataset.h"
#include "engine/data/prompts.h"
#include "fuzzing.h"

namespace {

using namespace finetuned;

constexpr char kTemplate[] =
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}</s>{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

const text::Tokenizer& SomeTokenizer() {
  static const auto* tokenizer = new std::shared_ptr<const text::Tokenizer>(
      text::TokenizerFromJson(fuzz::ReadRepositoryFile("tests/golden/text/bytes_gpt2.tokenizer.json")).value());
  return **tokenizer;
}

data::ReadLimits Limits() {
  data::ReadLimits limits;
  limits.max_line_bytes = 4096;
  limits.max_rows = 100;
  limits.max_depth = 40;
  return limits;
}

void Tokenize(const std::string& path, data::Method method, const data::ValidationReport& report) {
  data::TokenizeOptions options;
  options.method = method;
  options.max_seq_length = 64;
  options.limits = Limits();
  const auto set = data::TokenizeFile(path, SomeTokenizer(), kTemplate, options);
  if (set.ok()) {
    fuzz::Require(set->stats.rows + set->stats.dropped_rows == report.rows, "every valid row is kept or dropped");
    for (const data::TokenizedRow& row : set->rows) {
      fuzz::Require(row.input_ids.size() == row.trained.size(), "a mark per token");
      fuzz::Require(row.input_ids.size() <= 64, "no row is longer than max_seq_length");
    }
  }
  const auto preview = data::PreviewFile(path, SomeTokenizer(), kTemplate, options, 0, 5);
  if (!preview.ok()) return;
  for (const data::PreviewRow& row : *preview) {
    std::string text;
    for (const std::string& token : row.tokens) text += token;
    fuzz::Require(text == row.text, "the pieces make up the text");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static auto* file = new fuzz::MemoryFile();
  file->Write(fuzz::AsText(data + 1, size - 1));
  const auto method = static_cast<data::Method>(data[0] % 4);
  const auto report = data::ValidateFile(file->path(), method, Limits());
  fuzz::Require(report.ok(), "a file that can be read has a report");
  fuzz::Require(report->ok == (report->error_count == 0), "ok means no errors");
  fuzz::Require(report->errors.size() <= 20 && report->warnings.size() <= 20, "findings keep their limit");
  if (method == data::Method::kGrpo) {
    data::PromptOptions options;
    options.max_tokens = 64;
    options.limits = Limits();
    (void)data::LoadPrompts(file->path(), SomeTokenizer(), kTemplate, options);
  } else if (report->ok) {
    Tokenize(file->path(), method, *report);
  }
  return 0;
}
