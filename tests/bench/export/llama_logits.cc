// Logits of llama.cpp, for llama_cpp_check.py: llama_logits MODEL.gguf ADAPTER.gguf|- TEXTS OUT.
// TEXTS: a text a line. Prints the tokens of each line; writes float32 logits [tokens, vocabulary] of all of them to OUT.
#include "llama.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

void Log(ggml_log_level level, const char* text, void*) {
  if (level >= GGML_LOG_LEVEL_WARN) std::fputs(text, stderr);
}

llama_context* Open(const char* path, const std::string& adapter) {
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  llama_model* model = llama_model_load_from_file(path, model_params);
  if (model == nullptr) return nullptr;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 2048;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr || adapter == "-") return context;
  llama_adapter_lora* lora = llama_adapter_lora_init(model, adapter.c_str());
  float scale = 1.0f;
  return lora != nullptr && llama_set_adapters_lora(context, &lora, 1, &scale) == 0 ? context : nullptr;
}

bool Run(llama_context* context, const std::string& text, std::ofstream* out) {
  const llama_vocab* vocabulary = llama_model_get_vocab(llama_get_model(context));
  std::vector<llama_token> ids(text.size() + 8);
  const int size = static_cast<int>(text.size());
  const int n = llama_tokenize(vocabulary, text.data(), size, ids.data(), size + 8, true, true);
  if (n < 1) return false;
  llama_memory_clear(llama_get_memory(context), true);
  llama_batch batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  for (int i = 0; i < n; ++i) {
    batch.token[i] = ids[i];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) return false;
  std::printf("tokens");
  for (int i = 0; i < n; ++i) {
    std::printf(" %d", ids[i]);
    const float* logits = llama_get_logits_ith(context, i);
    out->write(reinterpret_cast<const char*>(logits), sizeof(float) * llama_vocab_n_tokens(vocabulary));
  }
  std::printf("\n");
  llama_batch_free(batch);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  llama_log_set(Log, nullptr);
  llama_backend_init();
  llama_context* context = Open(argv[1], argv[2]);
  if (context == nullptr) return 1;
  std::ifstream in(argv[3]);
  std::ofstream out(argv[4], std::ios::binary);
  for (std::string line; std::getline(in, line);) {
    if (!Run(context, line, &out)) return 1;
  }
  return 0;
}
