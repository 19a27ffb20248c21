#pragma once

#include <random>
#include <string>
#include <vector>

#include <google/protobuf/message.h>

// Changes protobuf messages field by field, so that what a fuzzer sends gets past the parser: Debian has no
// libprotobuf-mutator.
namespace finetuned::fuzz {

class MessageMutator {
 public:
  // `words`: texts that mean something to the receiver, such as names of resources.
  MessageMutator(uint32_t seed, std::vector<std::string> words) : random_(seed), words_(std::move(words)) {}

  // One change: a field is set, cleared, an element added or removed, or a message below changed.
  void Mutate(google::protobuf::Message* message, int depth = 0);

 private:
  using Field = google::protobuf::FieldDescriptor;
  void SetScalar(google::protobuf::Message* message, const Field* field);
  void AddScalar(google::protobuf::Message* message, const Field* field);
  void MutateRepeated(google::protobuf::Message* message, const Field* field, int depth);
  int64_t Integer();
  double Real();
  std::string Text();
  int EnumNumber(const Field* field);
  uint32_t Below(uint32_t n) { return n == 0 ? 0 : static_cast<uint32_t>(random_() % n); }

  std::mt19937 random_;
  const std::vector<std::string> words_;
};

}  // namespace finetuned::fuzz
