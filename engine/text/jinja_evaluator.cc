#include "engine/text/jinja_evaluator.h"

#include <algorithm>
#include <utility>

#include "engine/text/jinja_builtins.h"

namespace finetuned::text::jinja {

Evaluator::~Evaluator() {
  for (const auto& activation : captured_) activation->slots.clear();
}

absl::StatusOr<Rendered> Evaluator::Run(Inputs inputs) {
  inputs_ = std::move(inputs);
  current_ = std::make_shared<Activation>(template_.slots);
  StrBuilder out;
  out_ = &out;
  EnterScope(template_.loads);
  Exec(template_.body);
  if (!ok()) return status();
  Str text = out.Take();
  return Rendered{std::move(text.bytes), std::move(generation_), std::move(text.user)};
}

Value& Evaluator::Slot(const VarRef& ref) {
  Activation* activation = current_.get();
  for (int i = 0; i < ref.hops; ++i) activation = activation->parent.get();
  return activation->slots[static_cast<size_t>(ref.slot)];
}

void Evaluator::EnterScope(const Loads& loads) {
  Charge(static_cast<int64_t>(loads.size()));
  for (const Load& load : loads) {
    Value value;
    if (load.how == Load::How::kAlias) {
      value = Slot(load.source);
    } else if (load.how == Load::How::kResolve) {
      if (const auto input = inputs_.find(load.name); input != inputs_.end()) {
        value = input->second;
      } else if (const Function* function = FindGlobal(load.name)) {
        value = Value(function);
      }
    }
    current_->slots[static_cast<size_t>(load.slot)] = std::move(value);
  }
}

Evaluator::Flow Evaluator::Exec(const Body& body) {
  for (const auto& stmt : body) {
    const Flow flow = Exec(*stmt);
    if (!ok() || flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::Exec(const Stmt& stmt) {
  if (!Charge(1)) return Flow::kNext;
  line_ = stmt.line;
  Flow flow = Flow::kNext;
  if (Enter()) {
    switch (stmt.kind) {
      case StmtKind::kText:
        if (FitsOutput(out_->size() + stmt.text.size())) out_->Append(stmt.text);
        break;
      case StmtKind::kPrint: {
        const Value value = Eval(*stmt.expr);
        if (ok()) AppendStr(value, out_);
        break;
      }
      case StmtKind::kIf:
        flow = ExecIf(stmt);
        break;
      case StmtKind::kFor:
        flow = ExecFor(stmt);
        break;
      case StmtKind::kSet:
        ExecSet(stmt);
        break;
      case StmtKind::kMacro:
        ExecMacro(stmt);
        break;
      case StmtKind::kWith:
        flow = ExecWith(stmt);
        break;
      case StmtKind::kSetBlock:
      case StmtKind::kFilterBlock:
        flow = ExecBuffered(stmt);
        break;
      case StmtKind::kGeneration: {
        const size_t begin = out_->size();
        EnterScope(stmt.loads);
        Exec(stmt.body);
        generation_.push_back({begin, out_->size()});
        break;
      }
      case StmtKind::kBreak:
        flow = Flow::kBreak;
        break;
      case StmtKind::kContinue:
        flow = Flow::kContinue;
        break;
    }
  }
  Leave();
  return flow;
}

Evaluator::Flow Evaluator::ExecIf(const Stmt& stmt) {
  if (Truthy(Eval(*stmt.expr))) return ok() ? Exec(stmt.body) : Flow::kNext;
  for (const auto& elif : stmt.elifs) {
    if (!ok()) return Flow::kNext;
    line_ = elif->line;
    if (Truthy(Eval(*elif->expr))) return ok() ? Exec(elif->body) : Flow::kNext;
  }
  return ok() ? Exec(stmt.else_body) : Flow::kNext;
}

// The next item of a for loop that passes its inline if.
bool Evaluator::PullItem(const Stmt& stmt, std::vector<Value>* items, size_t* next, Value* item) {
  while (ok() && *next < items->size()) {
    *item = (*items)[(*next)++];
    if (!stmt.filter_test || PassesFilter(stmt, *item)) return ok();
  }
  return false;
}

bool Evaluator::PassesFilter(const Stmt& stmt, const Value& item) {
  Assign(*stmt.filter_target, item);
  return ok() && Truthy(Eval(*stmt.filter_test));
}

Evaluator::Flow Evaluator::ExecFor(const Stmt& stmt) {
  const Value iterable = Eval(*stmt.expr);
  if (!ok()) return Flow::kNext;
  // Iterators are consumed in place, so that a second loop sees what this one left.
  const bool iterator = iterable.is(Kind::kSequence) && iterable.seq()->kind == SeqKind::kIterator;
  std::vector<Value> copy;
  size_t copy_next = 0;
  if (!iterator) copy = Items(iterable);
  std::vector<Value>* items = iterator ? &iterable.seq()->items : &copy;
  size_t* next = iterator ? &iterable.seq()->next : &copy_next;
  if (stmt.filter_test) EnterScope(stmt.test_loads);

  auto loop = std::make_shared<Loop>();
  if (!iterator && !stmt.filter_test) loop->length = static_cast<int64_t>(copy.size());
  // May run inside of a macro that looks at `loop`: the filter needs the variables of this place.
  loop->pull = [&, home = current_](Value* item) {
    std::shared_ptr<Activation> caller = std::exchange(current_, home);
    const bool found = PullItem(stmt, items, next, item);
    current_ = std::move(caller);
    return found;
  };
  bool completed = false;
  Flow flow = Flow::kNext;
  while (ok() && flow != Flow::kBreak) {
    Value item;
    if (!Peek(loop.get(), &item)) break;
    loop->ahead.pop_back();
    loop->before = std::exchange(loop->current, item);
    ++loop->index0;
    EnterScope(stmt.loads);
    Slot(stmt.ref) = Value(loop);
    Assign(*stmt.target, item);
    if (!ok()) break;
    flow = Exec(stmt.body);
    completed = completed || flow == Flow::kNext;
  }
  *loop = Loop{nullptr, {}, {}, {}, loop->index0, loop->length, 0};
  if (!ok() || completed || stmt.else_body.empty()) return Flow::kNext;
  EnterScope(stmt.else_loads);
  return Exec(stmt.else_body);
}

Evaluator::Flow Evaluator::ExecBuffered(const Stmt& stmt) {
  if (stmt.target && !CheckNamespaces(*stmt.target)) return Flow::kNext;
  StrBuilder buffer;
  StrBuilder* const outer = std::exchange(out_, &buffer);
  EnterScope(stmt.loads);
  const Flow flow = Exec(stmt.body);
  out_ = outer;
  if (!ok() || flow != Flow::kNext) return flow;
  Value value = String(buffer.Take());
  if (stmt.expr && ok()) {
    const Value block = value;
    const Value* const outer_block = std::exchange(block_value_, &block);
    value = Eval(*stmt.expr);
    block_value_ = outer_block;
  }
  if (!ok()) return Flow::kNext;
  if (stmt.target) {
    Assign(*stmt.target, value);
  } else {
    AppendStr(value, out_);
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::ExecWith(const Stmt& stmt) {
  std::vector<Value> values;
  for (const auto& [target, expr] : stmt.with) values.push_back(Eval(*expr));
  if (!ok()) return Flow::kNext;
  EnterScope(stmt.loads);
  for (size_t i = 0; i < values.size() && ok(); ++i) Assign(*stmt.with[i].first, values[i]);
  return ok() ? Exec(stmt.body) : Flow::kNext;
}

void Evaluator::ExecSet(const Stmt& stmt) {
  if (!CheckNamespaces(*stmt.target)) return;
  const Value value = Eval(*stmt.expr);
  if (ok()) Assign(*stmt.target, value);
}

bool Evaluator::CheckNamespaces(const Expr& target) {
  if (target.kind == ExprKind::kNamespaceRef && !Slot(target.ref).is(Kind::kNamespace)) {
    Fail(Cat("cannot assign to '", target.name, ".", target.attribute, "': '", target.name,
             "' is not a namespace"));
  }
  for (const ExprPtr& part : target.args) CheckNamespaces(*part);
  return ok();
}

void Evaluator::Assign(const Expr& target, const Value& value) {
  if (target.kind == ExprKind::kName) {
    Slot(target.ref) = value;
  } else if (target.kind == ExprKind::kNamespaceRef) {
    if (target.attribute[0] == '_') {
      Fail(Cat("a namespace cannot hold '", target.attribute,
               "': its name starts with an underscore"));
      return;
    }
    const Value ns = Slot(target.ref);
    if (!ns.is(Kind::kNamespace)) return;
    SetItem(&ns.ns().attributes, Value(Plain(target.attribute)), value);
  } else {
    const std::vector<Value> items = Items(value);
    if (ok() && items.size() != target.args.size()) {
      if (value.undefined()) {
        FailUndefined(value);
      } else {
        Fail(
            Cat("cannot unpack ", items.size(), " values into ", target.args.size(), " variables"));
      }
    }
    for (size_t i = 0; i < target.args.size() && ok(); ++i) Assign(*target.args[i], items[i]);
  }
}

void Evaluator::ExecMacro(const Stmt& stmt) {
  auto macro = std::make_shared<Macro>();
  macro->node = stmt.macro.get();
  macro->closure = current_;
  if (!std::exchange(current_->captured, true)) captured_.push_back(current_);
  Slot(stmt.ref) = Value(std::shared_ptr<const Macro>(std::move(macro)));
}

Value Evaluator::CallMacro(const Macro& macro, CallArgs& args) {
  if (macro_depth_ >= max_depth()) {
    return Exhaust(Cat("macros call each other more than ", max_depth(), " deep"));
  }
  ++macro_depth_;
  const int line = line_;
  auto activation = std::make_shared<Activation>(macro.node->slots);
  activation->parent = macro.closure;
  std::shared_ptr<Activation> caller = std::exchange(current_, std::move(activation));
  StrBuilder buffer;
  StrBuilder* const outer = std::exchange(out_, &buffer);
  if (Charge(1 + macro.node->slots)) {
    EnterScope(macro.node->loads);
    BindParameters(*macro.node, args);
    if (ok()) Exec(macro.node->body);
  }
  out_ = outer;
  current_ = std::move(caller);
  --macro_depth_;
  if (!ok()) return Value();
  line_ = line;
  return String(buffer.Take());
}

void Evaluator::BindParameters(const MacroNode& node, CallArgs& args) {
  const size_t count = node.parameters.size();
  if (args.positional.size() > count && !node.uses_varargs) {
    Fail(Cat("macro '", node.name, "' takes not more than ", count, " argument(s)"));
    return;
  }
  auto rest = std::make_shared<Dict>();
  for (auto& [name, value] : args.named) {
    const auto place = std::find(node.parameters.begin(), node.parameters.end(), name);
    const auto index = static_cast<size_t>(place - node.parameters.begin());
    if (place != node.parameters.end() && index >= args.positional.size()) {
      Slot(node.parameter_refs[index]) = std::move(value);
    } else if (node.uses_kwargs) {
      SetItem(rest.get(), Value(Plain(name)), std::move(value));
    } else {
      Fail(Cat("macro '", node.name, "' takes no keyword argument '", name, "'"));
      return;
    }
  }
  for (size_t i = 0; i < count && ok(); ++i) {
    Value& slot = Slot(node.parameter_refs[i]);
    if (i < args.positional.size()) {
      slot = std::move(args.positional[i]);
    } else if (slot.missing()) {
      const size_t first_default = count - node.defaults.size();
      Value value =
          i >= first_default
              ? Eval(*node.defaults[i - first_default])
              : MakeUndefined(Cat("parameter '", node.parameters[i], "' was not provided"));
      Slot(node.parameter_refs[i]) = std::move(value);
    }
  }
  if (node.uses_varargs && ok()) {
    std::vector<Value> more;
    for (size_t i = count; i < args.positional.size(); ++i) more.push_back(args.positional[i]);
    Slot(node.varargs) = Tuple(std::move(more));
  }
  if (node.uses_kwargs && ok()) Slot(node.kwargs) = FinishDict(std::move(rest));
}

}  // namespace finetuned::text::jinja
