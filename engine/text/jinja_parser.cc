#include "engine/text/jinja_parser.h"

#include <algorithm>

#include "engine/text/jinja_expr_parser.h"

namespace finetuned::text::jinja {
namespace {

using StmtPtr = std::unique_ptr<Stmt>;
using Ends = std::initializer_list<std::string_view>;

// Parser of statements. Tracks what surrounds the current statement, because generation blocks and
// loop controls are only allowed in some places.
class Parser : public ExprParser {
 public:
  using ExprParser::ExprParser;

  absl::StatusOr<std::unique_ptr<Template>> Run() {
    auto parsed = std::make_unique<Template>();
    parsed->body = ParseBody({});
    if (!ok()) return status_;
    parsed->has_generation = has_generation_;
    return parsed;
  }

 private:
  // Statements up to a block whose name is in `ends`; stops at that name. With no ends, up to the
  // end of the template.
  Body ParseBody(Ends ends) {
    Body body;
    if (nesting_ >= kMaxNesting) {
      Fail("blocks are nested too deeply");
      return body;
    }
    ++nesting_;
    while (ok() && !(current().kind == TokenKind::kEnd && ends.size() == 0)) {
      if (current().kind == TokenKind::kEnd) {
        Fail(Cat("unexpected end of the template, '", *ends.begin(), "' is missing"));
      } else if (current().kind == TokenKind::kText) {
        body.push_back(New(StmtKind::kText));
        body.back()->text = current().text;
        Next();
      } else if (current().kind == TokenKind::kVariableBegin) {
        Next();
        body.push_back(New(StmtKind::kPrint));
        body.back()->expr = ParseTuple(TupleStyle::kNormal);
        ExpectKind(TokenKind::kVariableEnd, "}}");
      } else {
        ExpectKind(TokenKind::kBlockBegin, "{%");
        if (std::any_of(ends.begin(), ends.end(), [this](auto end) { return AtName(end); })) break;
        ParseStatement(&body);
        ExpectKind(TokenKind::kBlockEnd, "%}");
      }
    }
    --nesting_;
    return body;
  }

  // `%} ... {% END`, the end name is consumed.
  Body ParseBlock(std::string_view end) {
    BeginBlock();
    Body body = ParseBody({end});
    Next();
    return body;
  }

  void BeginBlock() {
    SkipOp(":");
    ExpectKind(TokenKind::kBlockEnd, "%}");
  }

  void ParseStatement(Body* body) {
    if (!ok()) return;
    const Token tag = current();
    const std::string name = ExpectName("the name of a statement");
    if (!ok()) return;
    auto stmt = New(StmtKind::kText);
    stmt->line = tag.line;
    if (name == "for") {
      ParseFor(stmt.get());
    } else if (name == "if") {
      ParseIf(stmt.get());
    } else if (name == "set") {
      ParseSet(stmt.get());
    } else if (name == "macro") {
      ParseMacro(stmt.get());
    } else if (name == "generation") {
      ParseGeneration(tag, stmt.get());
    } else if (name == "filter") {
      stmt->kind = StmtKind::kFilterBlock;
      stmt->expr = ParseFilters(nullptr, true);
      stmt->body = ParseBuffered("endfilter");
    } else if (name == "with") {
      ParseWith(stmt.get());
    } else if (name == "break" || name == "continue") {
      stmt->kind = name == "break" ? StmtKind::kBreak : StmtKind::kContinue;
      if (loops_ == 0) FailAt(tag, Cat("'", name, "' outside of a loop"));
    } else if (name == "print") {
      ParsePrint(tag.line, body);
      return;
    } else {
      FailStatement(tag, name);
    }
    body->push_back(std::move(stmt));
  }

  void FailStatement(const Token& tag, const std::string& name) {
    static constexpr std::string_view kUnsupported[] = {
        "block", "extends", "include", "import", "from", "call", "autoescape", "do", "trans"};
    const bool known =
        std::find(std::begin(kUnsupported), std::end(kUnsupported), name) != std::end(kUnsupported);
    FailAt(tag, known ? Cat("the statement '", name, "' is not supported")
                      : Cat("unknown or misplaced statement '", name, "'"));
  }

  void ParseFor(Stmt* stmt) {
    stmt->kind = StmtKind::kFor;
    stmt->target = ParseTarget(false, "in");
    if (!SkipName("in")) Fail(Cat("expected 'in', found ", DescribeCurrent()));
    stmt->expr = ParseTuple(TupleStyle::kNoConditional, "recursive");
    if (SkipName("if")) stmt->filter_test = ParseExpression();
    if (AtName("recursive")) Fail("recursive loops are not supported");
    BeginBlock();
    ++loops_;
    stmt->body = ParseBody({"endfor", "else"});
    --loops_;
    if (SkipName("else")) {
      stmt->else_body = ParseBlock("endfor");
    } else {
      Next();
    }
  }

  void ParseIf(Stmt* stmt) {
    stmt->kind = StmtKind::kIf;
    Stmt* branch = stmt;
    while (ok()) {
      branch->expr = ParseTuple(TupleStyle::kNoConditional);
      BeginBlock();
      branch->body = ParseBody({"endif", "elif", "else"});
      if (SkipName("elif")) {
        stmt->elifs.push_back(New(StmtKind::kIf));
        branch = stmt->elifs.back().get();
        continue;
      }
      if (SkipName("else")) {
        stmt->else_body = ParseBlock("endif");
      } else {
        Next();
      }
      return;
    }
  }

  void ParseSet(Stmt* stmt) {
    stmt->target = ParseTarget(true);
    if (SkipOp("=")) {
      stmt->kind = StmtKind::kSet;
      stmt->expr = ParseTuple(TupleStyle::kNormal);
      return;
    }
    stmt->kind = StmtKind::kSetBlock;
    stmt->expr = ParseFilters(nullptr);
    stmt->body = ParseBuffered("endset");
  }

  void ParseMacro(Stmt* stmt) {
    stmt->kind = StmtKind::kMacro;
    stmt->macro = std::make_unique<MacroNode>();
    MacroNode& macro = *stmt->macro;
    macro.name = ExpectName("the name of a macro");
    ExpectOp("(");
    while (ok() && !AtOp(")")) {
      if (!macro.parameters.empty()) ExpectOp(",");
      macro.parameters.push_back(ExpectName("the name of a parameter"));
      if (SkipOp("=")) {
        macro.defaults.push_back(ParseExpression());
      } else if (!macro.defaults.empty()) {
        Fail("a parameter without default follows one with a default");
      }
    }
    ExpectOp(")");
    const int loops = std::exchange(loops_, 0);
    macro.body = ParseBuffered("endmacro");
    loops_ = loops;
  }

  void ParseGeneration(const Token& tag, Stmt* stmt) {
    stmt->kind = StmtKind::kGeneration;
    if (buffers_ > 0) {
      FailAt(tag,
             "a generation block inside of a macro, set, filter or generation block is not "
             "supported, because its place in the output is not known");
    }
    has_generation_ = true;
    const int loops = std::exchange(loops_, 0);
    stmt->body = ParseBuffered("endgeneration");
    loops_ = loops;
  }

  void ParseWith(Stmt* stmt) {
    stmt->kind = StmtKind::kWith;
    while (ok() && current().kind != TokenKind::kBlockEnd) {
      if (!stmt->with.empty()) ExpectOp(",");
      ExprPtr target = ParseTarget(false);
      ExpectOp("=");
      stmt->with.emplace_back(std::move(target), ParseExpression());
    }
    stmt->body = ParseBlock("endwith");
  }

  void ParsePrint(int line, Body* body) {
    bool first = true;
    while (ok() && current().kind != TokenKind::kBlockEnd) {
      if (!first) ExpectOp(",");
      first = false;
      body->push_back(New(StmtKind::kPrint));
      body->back()->line = line;
      body->back()->expr = ParseExpression();
    }
  }

  Body ParseBuffered(std::string_view end) {
    ++buffers_;
    Body body = ParseBlock(end);
    --buffers_;
    return body;
  }

  StmtPtr New(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = current().line;
    return stmt;
  }

  void ExpectKind(TokenKind kind, std::string_view what) {
    if (!ok()) return;
    if (current().kind != kind) {
      Fail(Cat("expected '", what, "', found ", DescribeCurrent()));
      return;
    }
    Next();
  }

  int nesting_ = 0;  // of blocks
  int loops_ = 0;    // loops around that break and continue can reach
  int buffers_ = 0;  // blocks around whose output is collected first
  bool has_generation_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Template>> ParseTemplate(std::string_view source) {
  absl::StatusOr<std::vector<Token>> tokens = Tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(*std::move(tokens)).Run();
}

}  // namespace finetuned::text::jinja
