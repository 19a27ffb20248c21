#include "engine/text/jinja_resolver.h"

#include <map>
#include <optional>
#include <set>

#include "engine/text/jinja_builtins.h"
#include "engine/text/jinja_lexer.h"

namespace finetuned::text::jinja {
namespace {

// One activation: the template itself or a macro.
struct FunctionScope {
  int level = 0;
  int slots = 0;
  int64_t* copies = nullptr;  // names copied so far in the whole template, to bound the work
};

constexpr int64_t kMaxCopies = 5'000'000;

// What is known about the names of a scope. Branches of an if work on copies that are merged.
struct Names {
  std::map<std::string, Load> loads;  // of every name that belongs to the scope
  std::set<std::string> stores;
};

struct Scope {
  Scope* parent = nullptr;
  FunctionScope* function = nullptr;
  std::map<std::string, int> slots;  // shared by the copies of `names`
  Names names;
  bool soft = false;  // inside of an if: unknown filters and tests fail only when used

  std::optional<VarRef> FindOuter(const std::string& name) const {
    for (const Scope* scope = parent; scope != nullptr; scope = scope->parent) {
      if (const auto ref = scope->FindOwn(name)) {
        return VarRef{function->level - scope->function->level, ref->slot};
      }
    }
    return std::nullopt;
  }
  std::optional<VarRef> FindOwn(const std::string& name) const {
    const auto load = names.loads.find(name);
    if (load == names.loads.end()) return std::nullopt;
    return VarRef{0, load->second.slot};
  }
  VarRef Find(const std::string& name) const {
    if (const auto own = FindOwn(name)) return *own;
    return FindOuter(name).value_or(VarRef{});
  }

  void Define(const std::string& name, Load::How how, VarRef source = {}) {
    auto [slot, added] = slots.emplace(name, function->slots);
    if (added) ++function->slots;
    names.loads[name] = Load{how, slot->second, source, name};
  }
  void Read(const std::string& name) {
    if (!FindOwn(name) && !FindOuter(name)) Define(name, Load::How::kResolve);
  }
  void Store(const std::string& name) {
    names.stores.insert(name);
    if (FindOwn(name)) return;
    if (const auto outer = FindOuter(name)) {
      Define(name, Load::How::kAlias, *outer);
    } else {
      Define(name, Load::How::kClear);
    }
  }
  // A name that is assigned right after the scope is entered.
  VarRef Declare(const std::string& name) {
    names.stores.insert(name);
    Define(name, Load::How::kClear);
    return *FindOwn(name);
  }
  Loads TakeLoads() const {
    Loads out;
    for (const auto& [name, load] : names.loads) out.push_back(load);
    return out;
  }
};

// Pass 1: which names a scope reads and stores, in source order, without entering inner scopes.
class Analyzer {
 public:
  explicit Analyzer(Scope* scope) : scope_(*scope) {}

  void Visit(const Body& body) {
    for (const auto& stmt : body) Visit(*stmt);
  }

  void Visit(const ExprPtr& expr) {
    if (!expr) return;
    if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kNamespaceRef) {
      scope_.Read(expr->name);
    }
    for (const ExprPtr& arg : expr->args) Visit(arg);
    for (const ExprPtr& arg : expr->call.positional) Visit(arg);
    for (const auto& [name, arg] : expr->call.named) Visit(arg);
    Visit(expr->call.star);
    Visit(expr->call.star_star);
  }

  void VisitTarget(const Expr& target, bool declare) {
    if (target.kind == ExprKind::kNamespaceRef) {
      scope_.Read(target.name);
    } else if (target.kind == ExprKind::kName) {
      declare ? static_cast<void>(scope_.Declare(target.name)) : scope_.Store(target.name);
    } else {
      for (const ExprPtr& part : target.args) VisitTarget(*part, declare);
    }
  }

 private:
  void Visit(const Stmt& stmt) {
    switch (stmt.kind) {
      case StmtKind::kPrint:
      case StmtKind::kFor:
        Visit(stmt.expr);
        break;
      case StmtKind::kIf:
        VisitIf(stmt);
        break;
      case StmtKind::kSet:
        Visit(stmt.expr);
        VisitTarget(*stmt.target, false);
        break;
      case StmtKind::kSetBlock:
        VisitTarget(*stmt.target, false);
        break;
      case StmtKind::kMacro:
        scope_.Store(stmt.macro->name);
        break;
      case StmtKind::kFilterBlock:
        Visit(stmt.expr);
        break;
      case StmtKind::kWith:
        for (const auto& [target, value] : stmt.with) Visit(value);
        break;
      default:
        break;
    }
  }

  void VisitIf(const Stmt& stmt) {
    Visit(stmt.expr);
    *scope_.function->copies += 4 * static_cast<int64_t>(scope_.names.loads.size());
    if (*scope_.function->copies > kMaxCopies) return;
    const Names before = scope_.names;
    Names branches[3];
    Visit(stmt.body);
    branches[0] = std::exchange(scope_.names, before);
    for (const auto& elif : stmt.elifs) Visit(*elif);
    branches[1] = std::exchange(scope_.names, before);
    Visit(stmt.else_body);
    branches[2] = std::exchange(scope_.names, before);
    Merge(branches);
  }

  // A name that only some branches store keeps its outer or input value in the others.
  void Merge(Names (&branches)[3]) {
    std::map<std::string, int> stored;
    for (const Names& branch : branches) {
      for (const std::string& name : branch.stores) {
        if (!scope_.names.stores.contains(name)) ++stored[name];
      }
    }
    for (const Names& branch : branches) {
      for (const auto& [name, load] : branch.loads) scope_.names.loads[name] = load;
      scope_.names.stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const auto& [name, count] : stored) {
      if (count == 3) continue;
      const auto outer = scope_.FindOuter(name);
      scope_.Define(name, outer ? Load::How::kAlias : Load::How::kResolve,
                    outer.value_or(VarRef{}));
    }
  }

  Scope& scope_;
};

ExprPtr CloneTarget(const Expr& target) {
  auto copy = std::make_unique<Expr>();
  copy->kind = target.kind;
  copy->line = target.line;
  copy->name = target.name;
  copy->attribute = target.attribute;
  for (const ExprPtr& part : target.args) copy->args.push_back(CloneTarget(*part));
  return copy;
}

bool Reads(const Body& body, std::string_view name);

bool Reads(const ExprPtr& expr, std::string_view name) {
  if (!expr) return false;
  if (expr->kind == ExprKind::kName && expr->name == name) return true;
  for (const ExprPtr& arg : expr->args) {
    if (Reads(arg, name)) return true;
  }
  for (const ExprPtr& arg : expr->call.positional) {
    if (Reads(arg, name)) return true;
  }
  for (const auto& [key, arg] : expr->call.named) {
    if (Reads(arg, name)) return true;
  }
  return Reads(expr->call.star, name) || Reads(expr->call.star_star, name);
}

bool Reads(const Body& body, std::string_view name) {
  for (const auto& stmt : body) {
    if (Reads(stmt->expr, name) || Reads(stmt->filter_test, name) || Reads(stmt->body, name) ||
        Reads(stmt->else_body, name) || Reads(stmt->elifs, name) ||
        (stmt->macro && Reads(stmt->macro->body, name))) {
      return true;
    }
    for (const auto& [target, value] : stmt->with) {
      if (Reads(value, name)) return true;
    }
  }
  return false;
}

// Pass 2: fills the references of a scope and enters the inner ones.
class Resolver {
 public:
  absl::Status Run(Template* parsed) {
    int64_t copies = 0;
    FunctionScope function;
    function.copies = &copies;
    Scope root;
    root.function = &function;
    Analyzer(&root).Visit(parsed->body);
    Resolve(parsed->body, &root);
    if (copies > kMaxCopies) {
      return absl::InvalidArgumentError("chat template: too many variables and branches");
    }
    parsed->loads = root.TakeLoads();
    parsed->slots = function.slots;
    return status_;
  }

 private:
  static Scope Inner(Scope* parent) {
    Scope scope;
    scope.parent = parent;
    scope.function = parent->function;
    return scope;
  }

  void Resolve(const Body& body, Scope* scope) {
    for (const auto& stmt : body) Resolve(stmt.get(), scope);
  }

  void Resolve(Stmt* stmt, Scope* scope) {
    switch (stmt->kind) {
      case StmtKind::kPrint:
        Resolve(stmt->expr, *scope);
        break;
      case StmtKind::kSet:
        Resolve(stmt->expr, *scope);
        Resolve(stmt->target, *scope);
        break;
      case StmtKind::kIf:
        ResolveIf(stmt, scope);
        break;
      case StmtKind::kFor:
        ResolveFor(stmt, scope);
        break;
      case StmtKind::kMacro:
        ResolveMacro(stmt, scope);
        break;
      case StmtKind::kWith:
        ResolveWith(stmt, scope);
        break;
      case StmtKind::kSetBlock:
      case StmtKind::kGeneration:
      case StmtKind::kFilterBlock:
        ResolveBuffered(stmt, scope);
        break;
      default:
        break;
    }
  }

  void ResolveIf(Stmt* stmt, Scope* scope) {
    const bool soft = std::exchange(scope->soft, true);
    Resolve(stmt->expr, *scope);
    Resolve(stmt->body, scope);
    for (const auto& elif : stmt->elifs) Resolve(elif.get(), scope);
    Resolve(stmt->else_body, scope);
    scope->soft = soft;
  }

  void ResolveFor(Stmt* stmt, Scope* scope) {
    Resolve(stmt->expr, *scope);
    if (stmt->filter_test) {
      Scope test = Inner(scope);
      Analyzer analyzer(&test);
      analyzer.VisitTarget(*stmt->target, true);
      analyzer.Visit(stmt->filter_test);
      stmt->filter_target = CloneTarget(*stmt->target);
      Resolve(stmt->filter_target, test);
      Resolve(stmt->filter_test, test);
      stmt->test_loads = test.TakeLoads();
    }
    Scope inner = Inner(scope);
    stmt->ref = inner.Declare("loop");
    Analyzer analyzer(&inner);
    analyzer.VisitTarget(*stmt->target, true);
    analyzer.Visit(stmt->body);
    Resolve(stmt->target, inner);
    Resolve(stmt->body, &inner);
    stmt->loads = inner.TakeLoads();
    Scope otherwise = Inner(scope);
    Analyzer(&otherwise).Visit(stmt->else_body);
    Resolve(stmt->else_body, &otherwise);
    stmt->else_loads = otherwise.TakeLoads();
  }

  void ResolveMacro(Stmt* stmt, Scope* scope) {
    stmt->ref = scope->Find(stmt->macro->name);
    MacroNode& macro = *stmt->macro;
    FunctionScope function;
    function.level = scope->function->level + 1;
    function.copies = scope->function->copies;
    Scope inner = Inner(scope);
    inner.function = &function;
    Analyzer analyzer(&inner);
    for (const std::string& name : macro.parameters) {
      macro.parameter_refs.push_back(inner.Declare(name));
    }
    for (const ExprPtr& value : macro.defaults) analyzer.Visit(value);
    macro.uses_varargs = !inner.FindOwn("varargs") && Reads(macro.body, "varargs");
    macro.uses_kwargs = !inner.FindOwn("kwargs") && Reads(macro.body, "kwargs");
    if (macro.uses_varargs) macro.varargs = inner.Declare("varargs");
    if (macro.uses_kwargs) macro.kwargs = inner.Declare("kwargs");
    analyzer.Visit(macro.body);
    for (const ExprPtr& value : macro.defaults) Resolve(value, inner);
    Resolve(macro.body, &inner);
    macro.loads = inner.TakeLoads();
    macro.slots = function.slots;
  }

  void ResolveWith(Stmt* stmt, Scope* scope) {
    Scope inner = Inner(scope);
    Analyzer analyzer(&inner);
    for (const auto& [target, value] : stmt->with) analyzer.VisitTarget(*target, true);
    analyzer.Visit(stmt->body);
    for (const auto& [target, value] : stmt->with) {
      Resolve(value, *scope);
      Resolve(target, inner);
    }
    Resolve(stmt->body, &inner);
    stmt->loads = inner.TakeLoads();
  }

  void ResolveBuffered(Stmt* stmt, Scope* scope) {
    if (stmt->target) Resolve(stmt->target, *scope);
    Scope inner = Inner(scope);
    Analyzer analyzer(&inner);
    analyzer.Visit(stmt->body);
    analyzer.Visit(stmt->expr);
    Resolve(stmt->expr, inner);
    Resolve(stmt->body, &inner);
    stmt->loads = inner.TakeLoads();
  }

  void Resolve(const ExprPtr& expr, const Scope& scope) { Resolve(expr, scope, scope.soft); }

  void Resolve(const ExprPtr& expr, const Scope& scope, bool soft) {
    if (!expr) return;
    if (expr->kind == ExprKind::kConditional) soft = true;
    if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kNamespaceRef) {
      expr->ref = scope.Find(expr->name);
    } else if (expr->kind == ExprKind::kFilter) {
      expr->filter = FindFilter(expr->name);
      if (!expr->filter && !soft) Unknown("filter", *expr);
    } else if (expr->kind == ExprKind::kTest) {
      expr->test = FindTest(expr->name);
      if (!expr->test && !soft) Unknown("test", *expr);
    }
    for (const ExprPtr& arg : expr->args) Resolve(arg, scope, soft);
    for (const ExprPtr& arg : expr->call.positional) Resolve(arg, scope, soft);
    for (const auto& [name, arg] : expr->call.named) Resolve(arg, scope, soft);
    Resolve(expr->call.star, scope, soft);
    Resolve(expr->call.star_star, scope, soft);
  }

  void Unknown(std::string_view what, const Expr& expr) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        Cat("chat template, line ", expr.line, ": there is no ", what, " named '", expr.name, "'"));
  }

  absl::Status status_;
};

}  // namespace

absl::Status ResolveNames(Template* parsed) { return Resolver().Run(parsed); }

}  // namespace finetuned::text::jinja
