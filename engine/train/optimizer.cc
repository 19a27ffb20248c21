#include "engine/train/optimizer.h"

#include <ATen/ATen.h>

#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/format/safetensors_reader.h"
#include "engine/format/safetensors_writer.h"

namespace finetuned::train {
namespace {

std::span<const uint8_t> BytesOf(const at::Tensor& host) {
  return {static_cast<const uint8_t*>(host.const_data_ptr()), host.nbytes()};
}

format::DType StoredType(const at::Tensor& t) {
  return t.scalar_type() == at::kByte ? format::DType::kU8 : format::DType::kF32;
}

}  // namespace

Optimizer::Optimizer(const job::OptimizerOptions& options, lora::Adapter* adapter)
    : options_(options), adapter_(adapter) {
  const at::Tensor& all = adapter->parameters();
  if (options.kind == "adamw") {
    flat_m_ = at::zeros_like(all);
    flat_v_ = at::zeros_like(all);
    params_ = {all};
    grads_ = {adapter->gradients()};
    m_ = {flat_m_};
    v_ = {flat_v_};
    return;
  }
  std::vector<at::Tensor> large;
  int64_t small = 0;
  auto sort = [&](const at::Tensor& p, const at::Tensor& g) {
    if (p.numel() >= kernels::kAdam8bitMinimum) {
      params8_.push_back(p);
      grads8_.push_back(g);
    } else {
      params_.push_back(p);
      grads_.push_back(g);
      small += p.numel();
    }
  };
  for (const lora::NamedParameter& p : adapter->named_parameters()) sort(p.value, p.gradient);
  flat_m_ = at::zeros({small}, all.options());
  flat_v_ = at::zeros({small}, all.options());
  int64_t offset = 0;
  for (const at::Tensor& p : params_) {
    m_.push_back(flat_m_.narrow(0, offset, p.numel()).view_as(p));
    v_.push_back(flat_v_.narrow(0, offset, p.numel()).view_as(p));
    offset += p.numel();
  }
  Make8bitStates(params8_);
}

void Optimizer::Make8bitStates(const std::vector<at::Tensor>& matrices) {
  auto blocks = [](const at::Tensor& p) {
    return (p.numel() + kernels::kAdam8bitBlock - 1) / kernels::kAdam8bitBlock;
  };
  int64_t elements = 0, scales = 0;
  for (const at::Tensor& p : matrices) {
    elements += p.numel();
    scales += blocks(p);
  }
  const at::TensorOptions f32 = adapter_->parameters().options();
  codes_m_ = at::empty({elements}, f32.dtype(at::kByte));
  codes_v_ = at::empty({elements}, f32.dtype(at::kByte));
  absmax_m_ = at::empty({scales}, f32);
  absmax_v_ = at::empty({scales}, f32);
  int64_t element = 0, scale = 0;
  for (const at::Tensor& p : matrices) {
    const kernels::Adam8bitState zero = kernels::NewAdam8bitState(p);
    kernels::Adam8bitState s{codes_m_.narrow(0, element, p.numel()),
                             codes_v_.narrow(0, element, p.numel()),
                             absmax_m_.narrow(0, scale, blocks(p)),
                             absmax_v_.narrow(0, scale, blocks(p))};
    s.m_codes.copy_(zero.m_codes);
    s.v_codes.copy_(zero.v_codes);
    s.m_absmax.copy_(zero.m_absmax);
    s.v_absmax.copy_(zero.v_absmax);
    states8_.push_back(s);
    element += p.numel();
    scale += blocks(p);
  }
}

void Optimizer::Step(double learning_rate, int64_t step, const at::Tensor& grad_scale,
                     const at::Tensor& skip_flag) {
  const kernels::AdamWOptions o{learning_rate,    options_.beta1,        options_.beta2,
                                options_.epsilon, options_.weight_decay, step};
  if (options_.kind == "adamw") {
    kernels::AdamWStep(params_, grads_, m_, v_, o, grad_scale, skip_flag);
  } else {
    if (!params8_.empty()) {
      kernels::AdamW8bitStep(params8_, grads8_, states8_, o, grad_scale, skip_flag);
    }
    if (!params_.empty()) {
      kernels::AdamW32BnbStep(params_, grads_, m_, v_, o, grad_scale, skip_flag);
    }
  }
  adapter_->RefreshCompute();
}

std::vector<Optimizer::NamedTensor> Optimizer::State() const {
  std::vector<NamedTensor> all = {{"exp_avg", flat_m_}, {"exp_avg_sq", flat_v_}};
  if (codes_m_.defined()) {
    all.push_back({"exp_avg.codes", codes_m_});
    all.push_back({"exp_avg.absmax", absmax_m_});
    all.push_back({"exp_avg_sq.codes", codes_v_});
    all.push_back({"exp_avg_sq.absmax", absmax_v_});
  }
  return all;
}

absl::Status Optimizer::Save(const std::string& path) const {
  std::vector<format::SafetensorsWriter::Layout> layout;
  for (const NamedTensor& t : State()) {
    layout.push_back({t.name, StoredType(t.tensor), {t.tensor.numel()}});
  }
  auto writer = format::SafetensorsWriter::Create(path, std::move(layout));
  if (!writer.ok()) return writer.status();
  for (const NamedTensor& t : State()) {
    const at::Tensor host = t.tensor.to(at::kCPU);
    if (absl::Status s = (*writer)->Append(t.name, BytesOf(host)); !s.ok()) return s;
  }
  return (*writer)->Finish();
}

absl::Status Optimizer::Load(const std::string& path) {
  auto file = format::SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  for (NamedTensor t : State()) {
    const format::TensorInfo* info = (*file)->Find(t.name);
    if (info == nullptr || info->dtype != StoredType(t.tensor) ||
        info->shape != std::vector<int64_t>{t.tensor.numel()}) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", t.name, info == nullptr ? " is missing" : " does not fit this run"));
    }
    auto raw = (*file)->Raw(t.name);
    if (!raw.ok()) return raw.status();
    at::Tensor host = at::empty({t.tensor.numel()}, t.tensor.options().device(at::kCPU));
    std::memcpy(host.mutable_data_ptr(), raw->data(), raw->size());
    t.tensor.copy_(host);
  }
  return absl::OkStatus();
}

}  // namespace finetuned::train
