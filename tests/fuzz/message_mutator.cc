#include "message_mutator.h"

#include <limits>

namespace finetuned::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kDeepest = 8;
constexpr int kMostElements = 30;

}  // namespace

int64_t MessageMutator::Integer() {
  constexpr int64_t kEdges[] = {0, 1, -1, 2, 3, 7, 8, 16, 64, 127, 128, 1000, 65535, 1 << 20, INT32_MAX, INT32_MIN,
                                INT64_MAX, INT64_MIN, int64_t{1} << 40};
  return Below(4) == 0 ? static_cast<int64_t>(random_()) - static_cast<int64_t>(random_())
                       : kEdges[Below(std::size(kEdges))];
}

double MessageMutator::Real() {
  constexpr double kEdges[] = {0, -0.0, 1, -1, 0.5, 1e-8, 2e-4, 1e300, -1e300, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::denorm_min()};
  return kEdges[Below(std::size(kEdges))];
}

std::string MessageMutator::Text() {
  switch (Below(8)) {
    case 0: return std::string(Below(300), static_cast<char>('a' + Below(26)));
    case 1: {
      std::string bytes(Below(24), '\0');
      for (char& c : bytes) c = static_cast<char>(random_());
      return bytes;
    }
    case 2: return words_[Below(words_.size())] + words_[Below(words_.size())];
    default: return words_[Below(words_.size())];
  }
}

int MessageMutator::EnumNumber(const Field* field) {
  if (Below(8) == 0) return static_cast<int>(Below(1000));
  return field->enum_type()->value(static_cast<int>(Below(field->enum_type()->value_count())))->number();
}

void MessageMutator::SetScalar(Message* message, const Field* field) {
  const Reflection* r = message->GetReflection();
  switch (field->cpp_type()) {
    case Field::CPPTYPE_INT32: return r->SetInt32(message, field, static_cast<int32_t>(Integer()));
    case Field::CPPTYPE_INT64: return r->SetInt64(message, field, Integer());
    case Field::CPPTYPE_UINT32: return r->SetUInt32(message, field, static_cast<uint32_t>(Integer()));
    case Field::CPPTYPE_UINT64: return r->SetUInt64(message, field, static_cast<uint64_t>(Integer()));
    case Field::CPPTYPE_DOUBLE: return r->SetDouble(message, field, Real());
    case Field::CPPTYPE_FLOAT: return r->SetFloat(message, field, static_cast<float>(Real()));
    case Field::CPPTYPE_BOOL: return r->SetBool(message, field, Below(2) == 0);
    case Field::CPPTYPE_ENUM: return r->SetEnumValue(message, field, EnumNumber(field));
    case Field::CPPTYPE_STRING: return r->SetString(message, field, Text());
    case Field::CPPTYPE_MESSAGE: return;
  }
}

void MessageMutator::AddScalar(Message* message, const Field* field) {
  const Reflection* r = message->GetReflection();
  switch (field->cpp_type()) {
    case Field::CPPTYPE_INT32: return r->AddInt32(message, field, static_cast<int32_t>(Integer()));
    case Field::CPPTYPE_INT64: return r->AddInt64(message, field, Integer());
    case Field::CPPTYPE_UINT32: return r->AddUInt32(message, field, static_cast<uint32_t>(Integer()));
    case Field::CPPTYPE_UINT64: return r->AddUInt64(message, field, static_cast<uint64_t>(Integer()));
    case Field::CPPTYPE_DOUBLE: return r->AddDouble(message, field, Real());
    case Field::CPPTYPE_FLOAT: return r->AddFloat(message, field, static_cast<float>(Real()));
    case Field::CPPTYPE_BOOL: return r->AddBool(message, field, Below(2) == 0);
    case Field::CPPTYPE_ENUM: return r->AddEnumValue(message, field, EnumNumber(field));
    case Field::CPPTYPE_STRING: return r->AddString(message, field, Text());
    case Field::CPPTYPE_MESSAGE: return;
  }
}

void MessageMutator::MutateRepeated(Message* message, const Field* field, int depth) {
  const Reflection* r = message->GetReflection();
  const int size = r->FieldSize(*message, field);
  if (size > 0 && Below(3) == 0) return r->RemoveLast(message, field);
  if (size >= kMostElements) return;
  if (field->cpp_type() != Field::CPPTYPE_MESSAGE) return AddScalar(message, field);
  if (size > 0 && Below(2) == 0) {
    return Mutate(r->MutableRepeatedMessage(message, field, static_cast<int>(Below(size))), depth + 1);
  }
  Message* added = r->AddMessage(message, field);
  for (int i = 0; i < 2; ++i) Mutate(added, depth + 1);
}

void MessageMutator::Mutate(Message* message, int depth) {
  const auto* descriptor = message->GetDescriptor();
  if (descriptor->field_count() == 0 || depth > kDeepest) return;
  const Field* field = descriptor->field(static_cast<int>(Below(descriptor->field_count())));
  if (field->is_repeated()) return MutateRepeated(message, field, depth);
  const Reflection* r = message->GetReflection();
  const bool has = field->has_presence() && r->HasField(*message, field);
  if (has && Below(5) == 0) return r->ClearField(message, field);
  if (field->cpp_type() != Field::CPPTYPE_MESSAGE) return SetScalar(message, field);
  Mutate(r->MutableMessage(message, field), depth + 1);
}

}  // namespace finetuned::fuzz
