#include "engine/text/jinja_expr_parser.h"

#include <algorithm>

#include "engine/text/jinja_parser.h"

namespace finetuned::text::jinja {
namespace {

class Nesting {
 public:
  explicit Nesting(int* depth) : depth_(depth) { ++*depth_; }
  ~Nesting() { --*depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int* depth_;
};

bool IsConstantName(std::string_view name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" ||
         name == "None";
}

}  // namespace

bool ExprParser::AtOp(std::string_view op) const {
  return ok() && current().kind == TokenKind::kOperator && current().text == op;
}

bool ExprParser::AtName(std::string_view name) const {
  return ok() && current().kind == TokenKind::kName && current().text == name;
}

bool ExprParser::SkipOp(std::string_view op) {
  if (!AtOp(op)) return false;
  Next();
  return true;
}

bool ExprParser::SkipName(std::string_view name) {
  if (!AtName(name)) return false;
  Next();
  return true;
}

void ExprParser::ExpectOp(std::string_view op) {
  if (!SkipOp(op)) Fail(Cat("expected '", op, "', found ", DescribeCurrent()));
}

std::string ExprParser::ExpectName(std::string_view what) {
  if (!ok()) return {};
  if (current().kind != TokenKind::kName) {
    Fail(Cat("expected ", what, ", found ", DescribeCurrent()));
    return {};
  }
  std::string name = current().text;
  Next();
  return name;
}

ExprPtr ExprParser::Fail(std::string_view message) { return FailAt(current(), message); }

ExprPtr ExprParser::FailAt(const Token& token, std::string_view message) {
  if (ok()) status_ = SyntaxError(token.line, token.column, message);
  return nullptr;
}

std::string ExprParser::DescribeCurrent() const {
  switch (current().kind) {
    case TokenKind::kText:
      return "template text";
    case TokenKind::kBlockBegin:
      return "'{%'";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kVariableBegin:
      return "'{{'";
    case TokenKind::kVariableEnd:
      return "'}}'";
    case TokenKind::kString:
      return "a string";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return Cat("'", current().text, "'");
  }
}

ExprPtr ExprParser::New(ExprKind kind, int line) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExprPtr ExprParser::Finish(ExprPtr node) {
  if (!ok()) return nullptr;
  const auto cover = [&node](const ExprPtr& child) {
    if (child) node->depth = std::max(node->depth, child->depth + 1);
  };
  for (const ExprPtr& arg : node->args) cover(arg);
  for (const ExprPtr& arg : node->call.positional) cover(arg);
  for (const auto& [name, arg] : node->call.named) cover(arg);
  cover(node->call.star);
  cover(node->call.star_star);
  if (node->depth > kMaxExprHeight) return Fail("this expression is nested too deeply");
  return node;
}

ExprPtr ExprParser::Binary(ExprKind kind, ExprPtr left, ExprPtr right) {
  if (!ok()) return nullptr;
  ExprPtr node = New(kind, left->line);
  node->args.push_back(std::move(left));
  node->args.push_back(std::move(right));
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParseExpression(bool with_conditional) {
  if (!ok()) return nullptr;
  if (nesting_ >= kMaxNesting) return Fail("this expression is nested too deeply");
  const Nesting nesting(&nesting_);
  ExprPtr node = ParseOr();
  while (with_conditional && SkipName("if")) {
    ExprPtr conditional = New(ExprKind::kConditional, node->line);
    conditional->args.push_back(ParseOr());
    conditional->args.push_back(std::move(node));
    conditional->args.push_back(SkipName("else") ? ParseExpression() : nullptr);
    node = Finish(std::move(conditional));
  }
  return node;
}

ExprPtr ExprParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (SkipName("or")) {
    ExprPtr right = ParseAnd();
    left = Binary(ExprKind::kOr, std::move(left), std::move(right));
  }
  return left;
}

ExprPtr ExprParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (SkipName("and")) {
    ExprPtr right = ParseNot();
    left = Binary(ExprKind::kAnd, std::move(left), std::move(right));
  }
  return left;
}

ExprPtr ExprParser::ParseNot() {
  if (!AtName("not")) return ParseCompare();
  if (nesting_ >= kMaxNesting) return Fail("this expression is nested too deeply");
  const Nesting nesting(&nesting_);
  ExprPtr node = New(ExprKind::kNot, current().line);
  Next();
  node->args.push_back(ParseNot());
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParseCompare() {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<", CompareOp::kLt},
      {"<=", CompareOp::kLe}, {">", CompareOp::kGt},  {">=", CompareOp::kGe}};
  ExprPtr first = ParseSum();
  if (!ok()) return nullptr;
  ExprPtr node = New(ExprKind::kCompare, first->line);
  node->args.push_back(std::move(first));
  while (ok()) {
    const auto* op = std::find_if(std::begin(kOps), std::end(kOps),
                                  [this](const auto& known) { return AtOp(known.first); });
    if (op != std::end(kOps)) {
      Next();
      node->ops.push_back(op->second);
    } else if (SkipName("in")) {
      node->ops.push_back(CompareOp::kIn);
    } else if (AtName("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
      Next();
      Next();
      node->ops.push_back(CompareOp::kNotIn);
    } else {
      break;
    }
    node->args.push_back(ParseSum());
  }
  if (node->ops.empty()) return ok() ? std::move(node->args[0]) : nullptr;
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParseSum() {
  ExprPtr left = ParseConcat();
  while (AtOp("+") || AtOp("-")) {
    const ExprKind kind = AtOp("+") ? ExprKind::kAdd : ExprKind::kSub;
    Next();
    ExprPtr right = ParseConcat();
    left = Binary(kind, std::move(left), std::move(right));
  }
  return left;
}

ExprPtr ExprParser::ParseConcat() {
  ExprPtr first = ParseProduct();
  if (!AtOp("~")) return first;
  ExprPtr node = New(ExprKind::kConcat, first->line);
  node->args.push_back(std::move(first));
  while (SkipOp("~")) node->args.push_back(ParseProduct());
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParseProduct() {
  static constexpr std::pair<std::string_view, ExprKind> kOps[] = {{"*", ExprKind::kMul},
                                                                   {"/", ExprKind::kDiv},
                                                                   {"//", ExprKind::kFloorDiv},
                                                                   {"%", ExprKind::kMod}};
  ExprPtr left = ParsePower();
  while (ok()) {
    const auto* op = std::find_if(std::begin(kOps), std::end(kOps),
                                  [this](const auto& known) { return AtOp(known.first); });
    if (op == std::end(kOps)) break;
    Next();
    ExprPtr right = ParsePower();
    left = Binary(op->second, std::move(left), std::move(right));
  }
  return left;
}

ExprPtr ExprParser::ParsePower() {
  ExprPtr left = ParseUnary(true);
  while (SkipOp("**")) {
    ExprPtr right = ParseUnary(true);
    left = Binary(ExprKind::kPow, std::move(left), std::move(right));
  }
  return left;
}

ExprPtr ExprParser::ParseUnary(bool with_filter) {
  if (!ok()) return nullptr;
  if (!AtOp("-") && !AtOp("+")) return ParsePostfix(ParsePrimary(false), with_filter);
  if (nesting_ >= kMaxNesting) return Fail("this expression is nested too deeply");
  const Nesting nesting(&nesting_);
  ExprPtr node = New(AtOp("-") ? ExprKind::kNeg : ExprKind::kPos, current().line);
  Next();
  node->args.push_back(ParseUnary(false));
  return ParsePostfix(Finish(std::move(node)), with_filter);
}

ExprPtr ExprParser::ParsePrimary(bool with_namespace) {
  if (!ok()) return nullptr;
  const Token& token = current();
  ExprPtr node = New(ExprKind::kConst, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      return ParseNameOrConstant(with_namespace);
    case TokenKind::kString: {
      std::string text;
      for (; current().kind == TokenKind::kString; Next()) text += current().text;
      node->constant = Value(Plain(text));
      return node;
    }
    case TokenKind::kInteger:
      node->constant = Value(token.integer);
      Next();
      return node;
    case TokenKind::kFloat:
      node->constant = Value(token.number);
      Next();
      return node;
    default:
      break;
  }
  if (SkipOp("(")) {
    ExprPtr inner = ParseTuple(TupleStyle::kParenthesized);
    ExpectOp(")");
    return ok() ? std::move(inner) : nullptr;
  }
  if (AtOp("[")) return ParseListLiteral();
  if (AtOp("{")) return ParseDictLiteral();
  return Fail(Cat("unexpected ", DescribeCurrent()));
}

ExprPtr ExprParser::ParseNameOrConstant(bool with_namespace) {
  ExprPtr node = New(ExprKind::kName, current().line);
  node->name = current().text;
  Next();
  if (IsConstantName(node->name)) {
    node->kind = ExprKind::kConst;
    const char first = static_cast<char>(node->name[0] | 0x20);
    node->constant = first == 'n' ? Value(None{}) : Value(first == 't');
  } else if (with_namespace && SkipOp(".")) {
    node->kind = ExprKind::kNamespaceRef;
    node->attribute = ExpectName("the name of a namespace attribute");
  }
  return node;
}

ExprPtr ExprParser::ParseListLiteral() {
  ExprPtr node = New(ExprKind::kList, current().line);
  ExpectOp("[");
  while (ok() && !AtOp("]")) {
    if (!node->args.empty()) ExpectOp(",");
    if (AtOp("]")) break;
    node->args.push_back(ParseExpression());
  }
  ExpectOp("]");
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParseDictLiteral() {
  ExprPtr node = New(ExprKind::kDict, current().line);
  ExpectOp("{");
  while (ok() && !AtOp("}")) {
    if (!node->args.empty()) ExpectOp(",");
    if (AtOp("}")) break;
    node->args.push_back(ParseExpression());
    ExpectOp(":");
    node->args.push_back(ParseExpression());
  }
  ExpectOp("}");
  return Finish(std::move(node));
}

ExprPtr ExprParser::ParsePostfix(ExprPtr node, bool with_filter) {
  while (ok()) {
    if (AtOp(".") || AtOp("[")) {
      node = ParseSubscript(std::move(node));
    } else if (AtOp("(")) {
      ExprPtr call = New(ExprKind::kCall, current().line);
      ParseCallArgs(&call->call);
      call->args.push_back(std::move(node));
      node = Finish(std::move(call));
    } else {
      break;
    }
  }
  while (with_filter && ok()) {
    if (AtOp("|")) {
      node = ParseFilters(std::move(node));
    } else if (AtName("is")) {
      node = ParseTest(std::move(node));
    } else if (AtOp("(")) {
      node = ParsePostfix(std::move(node), false);
    } else {
      break;
    }
  }
  return ok() ? std::move(node) : nullptr;
}

ExprPtr ExprParser::ParseSubscript(ExprPtr node) {
  const int line = current().line;
  if (SkipOp(".")) {
    if (current().kind == TokenKind::kName) {
      ExprPtr attribute = New(ExprKind::kGetAttr, line);
      attribute->name = current().text;
      Next();
      attribute->args.push_back(std::move(node));
      return Finish(std::move(attribute));
    }
    if (current().kind != TokenKind::kInteger) {
      return Fail(Cat("expected a name or number after '.', found ", DescribeCurrent()));
    }
    ExprPtr index = New(ExprKind::kConst, line);
    index->constant = Value(current().integer);
    Next();
    return Binary(ExprKind::kGetItem, std::move(node), std::move(index));
  }
  ExpectOp("[");
  ExprPtr item = ParseSubscribed(std::move(node));
  if (AtOp(",")) return Fail("a subscript with several indices is not supported");
  ExpectOp("]");
  return ok() ? std::move(item) : nullptr;
}

ExprPtr ExprParser::ParseSubscribed(ExprPtr object) {
  if (!ok()) return nullptr;
  ExprPtr start = AtOp(":") ? nullptr : ParseExpression();
  if (!AtOp(":")) return Binary(ExprKind::kGetItem, std::move(object), std::move(start));
  ExprPtr slice = New(ExprKind::kSlice, current().line);
  Next();
  slice->args.push_back(std::move(object));
  slice->args.push_back(std::move(start));
  slice->args.push_back(AtOp(":") || AtOp("]") || AtOp(",") ? nullptr : ParseExpression());
  const bool stepped = SkipOp(":");
  slice->args.push_back(!stepped || AtOp("]") || AtOp(",") ? nullptr : ParseExpression());
  return Finish(std::move(slice));
}

ExprPtr ExprParser::ParseFilters(ExprPtr subject, bool start_inline) {
  while (ok() && (AtOp("|") || start_inline)) {
    if (!start_inline) Next();
    start_inline = false;
    ExprPtr node = New(ExprKind::kFilter, current().line);
    node->name = ExpectName("the name of a filter");
    while (SkipOp(".")) CatTo(&node->name, ".", ExpectName("the name of a filter"));
    if (AtOp("(")) ParseCallArgs(&node->call);
    node->args.push_back(std::move(subject));
    subject = Finish(std::move(node));
  }
  return ok() ? std::move(subject) : nullptr;
}

ExprPtr ExprParser::ParseTest(ExprPtr subject) {
  ExprPtr node = New(ExprKind::kTest, current().line);
  Next();
  const bool negated = SkipName("not");
  node->name = ExpectName("the name of a test");
  while (SkipOp(".")) CatTo(&node->name, ".", ExpectName("the name of a test"));
  const TokenKind kind = current().kind;
  const bool operand = kind == TokenKind::kName || kind == TokenKind::kString ||
                       kind == TokenKind::kInteger || kind == TokenKind::kFloat || AtOp("[") ||
                       AtOp("{");
  if (AtOp("(")) {
    ParseCallArgs(&node->call);
  } else if (operand && !AtName("else") && !AtName("or") && !AtName("and")) {
    if (AtName("is")) return Fail("tests cannot be chained with 'is'");
    node->call.positional.push_back(ParsePostfix(ParsePrimary(false), false));
  }
  node->args.push_back(std::move(subject));
  node = Finish(std::move(node));
  if (!negated || !ok()) return node;
  ExprPtr inverted = New(ExprKind::kNot, node->line);
  inverted->args.push_back(std::move(node));
  return Finish(std::move(inverted));
}

void ExprParser::ParseCallArgs(CallExprs* call) {
  ExpectOp("(");
  bool first = true;
  while (ok() && !AtOp(")")) {
    if (!first) ExpectOp(",");
    if (AtOp(")")) break;
    first = false;
    const Token& token = current();
    const bool keyword = token.kind == TokenKind::kName && ahead().kind == TokenKind::kOperator &&
                         ahead().text == "=";
    const bool late = call->star_star || (call->star && !keyword && !AtOp("**")) ||
                      (!keyword && !AtOp("*") && !AtOp("**") && !call->named.empty());
    if (late) {
      Fail("invalid order of arguments in this call");
    } else if (SkipOp("*")) {
      call->star = ParseExpression();
    } else if (SkipOp("**")) {
      call->star_star = ParseExpression();
    } else if (keyword) {
      std::string name = token.text;
      Next();
      Next();
      call->named.emplace_back(std::move(name), ParseExpression());
    } else {
      call->positional.push_back(ParseExpression());
    }
  }
  ExpectOp(")");
}

ExprPtr ExprParser::ParseTuple(TupleStyle style, std::string_view end_name) {
  if (!ok()) return nullptr;
  ExprPtr tuple = New(ExprKind::kTuple, current().line);
  bool is_tuple = false;
  while (ok()) {
    const TokenKind kind = current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || AtOp(")") ||
        (!end_name.empty() && AtName(end_name))) {
      break;
    }
    tuple->args.push_back(ParseExpression(style != TupleStyle::kNoConditional));
    if (!SkipOp(",")) break;
    is_tuple = true;
  }
  if (!ok()) return nullptr;
  if (!is_tuple && !tuple->args.empty()) return std::move(tuple->args[0]);
  if (!is_tuple && style != TupleStyle::kParenthesized) {
    return Fail(Cat("expected an expression, found ", DescribeCurrent()));
  }
  return Finish(std::move(tuple));
}

ExprPtr ExprParser::ParseTarget(bool with_namespace, std::string_view end_name) {
  if (!ok()) return nullptr;
  const Token begin = current();
  ExprPtr tuple = New(ExprKind::kTuple, begin.line);
  bool is_tuple = false;
  while (ok() && current().kind != TokenKind::kBlockEnd &&
         !(!end_name.empty() && AtName(end_name))) {
    tuple->args.push_back(ParsePrimary(with_namespace));
    if (!SkipOp(",")) break;
    is_tuple = true;
  }
  if (!ok()) return nullptr;
  if (tuple->args.empty()) return FailAt(begin, "expected the name of a variable");
  ExprPtr target = is_tuple ? Finish(std::move(tuple)) : std::move(tuple->args[0]);
  if (!ok()) return nullptr;
  if (!CheckTarget(target.get())) return FailAt(begin, "cannot assign to this expression");
  return target;
}

bool ExprParser::CheckTarget(Expr* target) {
  if (target->kind == ExprKind::kName || target->kind == ExprKind::kNamespaceRef) return true;
  if (target->kind != ExprKind::kTuple) return false;
  return std::all_of(target->args.begin(), target->args.end(),
                     [this](const ExprPtr& arg) { return CheckTarget(arg.get()); });
}

}  // namespace finetuned::text::jinja
