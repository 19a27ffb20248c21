// Included first by every file of a ThreadSanitizer build with GCC that may see protobuf's headers.
//
// map_field.h gives MapFieldBase two more members when __SANITIZE_THREAD__ is defined, which GCC does and clang does not.
// The protobuf library of the distribution is built without them, so both sides disagree where a map's fields lie, and the
// first access to one ends with SIGSEGV in Map's code. This reads the header as the library was built. <version> comes
// first: the C++ library has to see the macro, or its reference counts would look like races.
#pragma once

#include <version>

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
