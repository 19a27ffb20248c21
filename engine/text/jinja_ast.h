#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja_value.h"

namespace finetuned::text::jinja {

struct Expr;
struct Stmt;
struct FilterDef;
struct TestDef;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

// Where a variable lives: in the activation `hops` macros further out, at `slot`.
// Filled by the resolver (jinja_resolver.h).
struct VarRef {
  int hops = 0;
  int slot = -1;
};

// What happens to a variable when its scope is entered.
struct Load {
  enum class How { kAlias, kResolve, kClear };
  How how = How::kClear;
  int slot = -1;
  VarRef source;     // kAlias: the variable of an outer scope whose value is copied
  std::string name;  // kResolve: the input variable or global of that name
};
using Loads = std::vector<Load>;

enum class ExprKind : uint8_t {
  kConst,
  kName,
  kNamespaceRef,
  kList,
  kTuple,
  kDict,
  kNeg,
  kPos,
  kNot,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kAnd,
  kOr,
  kConcat,
  kCompare,
  kConditional,
  kGetAttr,
  kGetItem,
  kSlice,
  kCall,
  kFilter,
  kTest,
};

enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct CallExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;  // *args, **kwargs
};

struct Expr {
  ExprKind kind = ExprKind::kConst;
  int line = 0;
  int depth = 1;          // height of the tree below; bounded by the parser
  Value constant;         // kConst
  std::string name;       // kName, kNamespaceRef (variable), kGetAttr, kFilter, kTest
  std::string attribute;  // kNamespaceRef
  VarRef ref;             // kName, kNamespaceRef
  // Operands; for kDict key and value in turn, for kConditional test, then, else (null when
  // absent), for kSlice object, start, stop, step (null when absent).
  std::vector<ExprPtr> args;
  std::vector<CompareOp> ops;         // kCompare: ops[i] stands between args[i] and args[i + 1]
  CallExprs call;                     // kCall, kFilter, kTest
  const FilterDef* filter = nullptr;  // null: unknown, fails when used
  const TestDef* test = nullptr;
};

enum class StmtKind : uint8_t {
  kText,
  kPrint,
  kFor,
  kIf,
  kSet,
  kSetBlock,
  kMacro,
  kGeneration,
  kFilterBlock,
  kWith,
  kBreak,
  kContinue,
};

struct MacroNode {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  std::vector<VarRef> parameter_refs;
  bool uses_varargs = false, uses_kwargs = false;
  VarRef varargs, kwargs;
  Loads loads;
  int slots = 0;  // size of the activation
  Body body;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  std::string text;       // kText
  ExprPtr expr;           // kPrint, kSet, kFor (iterable), kIf (test), filter of blocks
  ExprPtr target;         // kSet, kSetBlock, kFor
  ExprPtr filter_test;    // kFor: the inline if
  ExprPtr filter_target;  // kFor: the target as filter_test sees it
  std::vector<std::pair<ExprPtr, ExprPtr>> with;  // kWith: targets and values
  Body body, else_body;
  std::vector<std::unique_ptr<Stmt>> elifs;  // kIf: kIf statements without elifs and else
  std::unique_ptr<MacroNode> macro;          // kMacro
  VarRef ref;                                // kMacro: the name; kFor: `loop`
  Loads loads, test_loads, else_loads;       // of the inner scopes
};

struct Template {
  Body body;
  Loads loads;
  int slots = 0;
  bool has_generation = false;
};

}  // namespace finetuned::text::jinja
