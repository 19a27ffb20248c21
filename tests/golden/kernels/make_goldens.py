"""Writes kernels.json: what bitsandbytes 0.50.2 (CPU backend, torch 2.11.0, numpy 2.4.6) makes of
inputs that kernels_test rebuilds from integer hashes. Run: python make_goldens.py

nf4     quantize_4bit / dequantize_4bit, every byte string as [length, crc32]; fp4 likewise.
int8    int8_vectorwise_quant of a weight in float16, and its values as MatMul8bitLt's backward makes them.
adam8   ten steps of 8-bit AdamW. `kernel`: a float32 numpy model of bitsandbytes' CUDA kernel
        (kOptimizerStatic8bit2StateBlockwise: update from the unquantized moments, decay last, m
        keeps its sign) with exact division, as [length, crc32]. `cpu_backend`: parameters that
        bitsandbytes' own CPU backend ends with; it divides differently and decays first.
adam32  ten steps of the float32 path below 4096 elements, the same two ways.
"""

import json
import pathlib
import zlib

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch

f32 = np.float32


def uniform(n, seed):
    """n float32 in [-1, 1): exact in float32, rebuilt in C++ from the same integers."""
    x = np.arange(n, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed) * np.uint32(40503)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(12)
    x *= np.uint32(0x297A2D39)
    x ^= x >> np.uint32(15)
    return (x >> np.uint32(8)).astype(f32) * f32(2.0**-23) - f32(1)


def weight(n, seed):
    """Heavy around zero, block scales that differ by powers of two, block 3 all zero."""
    u = uniform(n, seed)
    w = (u * u).astype(f32) * u
    block = np.arange(n) // 64
    w = w * np.exp2(-(block % 5)).astype(f32)
    w[block == 3] = 0
    return w.astype(f32)


def crc(array):
    data = np.ascontiguousarray(array).tobytes()
    return [len(data), zlib.crc32(data)]


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy()


def four_bit_case(shape, dtype, seed, quant_type):
    n = int(np.prod(shape))
    w = torch.from_numpy(weight(n, seed)).to(dtype).reshape(shape)
    case = {"shape": list(shape), "dtype": str(dtype).split(".")[1], "seed": seed}
    codes, plain = F.quantize_4bit(w, quant_type=quant_type, blocksize=64, compress_statistics=False)
    case["codes"] = crc(codes.numpy())
    case["absmax"] = crc(plain.absmax.numpy())
    nested_codes, nested = F.quantize_4bit(w, quant_type=quant_type, blocksize=64,
                                           compress_statistics=True)
    assert torch.equal(codes, nested_codes)
    case["absmax_q"] = crc(nested.absmax.numpy())
    case["absmax2"] = crc(nested.state2.absmax.numpy())
    case["offset"] = float(nested.offset)
    for name, state in (("plain", plain), ("nested", nested)):
        for out in (torch.float32, torch.bfloat16):
            state.dtype = out
            value = F.dequantize_4bit(codes, state)
            assert value.dtype == out and value.shape == torch.Size(shape)
            case[f"{name}_{str(out).split('.')[1]}"] = crc(as_bytes(value))
    return case


def nf4_case(shape, dtype, seed):
    return four_bit_case(shape, dtype, seed, "nf4")


def fp4_case(shape, dtype, seed):
    return four_bit_case(shape, dtype, seed, "fp4")


def int8_case(shape, dtype, seed):
    """Row 1 is all zero: bitsandbytes divides by its absmax of 0 there, so its codes are set to 0."""
    w = torch.from_numpy(weight(int(np.prod(shape)), seed)).to(dtype).reshape(shape)
    w[1] = 0
    codes, absmax, _ = F.int8_vectorwise_quant(w.to(torch.float16))
    codes[1] = 0
    case = {"shape": list(shape), "dtype": str(dtype).split(".")[1], "seed": seed}
    case["codes"] = crc(codes.numpy())
    scale = absmax.unsqueeze(1).mul(1.0 / 127.0)
    case["scale"] = crc(scale.numpy())
    for out in (torch.float32, torch.bfloat16):
        case[f"value_{str(out).split('.')[1]}"] = crc(as_bytes(codes.to(out, copy=True).mul_(scale)))
    return case


def nearest(code, x):
    right = np.clip(np.searchsorted(code, x, side="left"), 1, 255)
    left = right - 1
    index = np.where((code[right] - x).astype(f32) < (x - code[left]).astype(f32), right, left)
    return np.where(x <= code[0], 0, index)


def scalars(o, t):
    c1, c2 = 1.0 - o["beta1"] ** t, np.sqrt(1.0 - o["beta2"] ** t)
    b1, b2 = f32(o["beta1"]), f32(o["beta2"])
    return (b1, b2, f32(1) - b1, f32(1) - b2, f32(-o["lr"] * c2 / c1), f32(o["eps"] * c2),
            f32(1.0 - o["lr"] * o["weight_decay"]))


def update(o, t, p, g, m, v):
    b1, b2, ob1, ob2, step, eps, decay = scalars(o, t)
    m = (m * b1).astype(f32) + (ob1 * g).astype(f32)
    v = (v * b2).astype(f32) + (ob2 * (g * g).astype(f32)).astype(f32)
    p = (p + (step * (m / (np.sqrt(v) + eps)).astype(f32)).astype(f32)).astype(f32) * decay
    return p.astype(f32), m.astype(f32), v.astype(f32)


def by_block(x, n):
    return np.repeat(x, 256)[:n]


def block_max(x):
    padded = np.zeros(-(-len(x) // 256) * 256, f32)
    padded[: len(x)] = np.abs(x)
    return padded.reshape(-1, 256).max(1)


def model_8bit(o, p, grads):
    signed = F.create_dynamic_map(signed=True).numpy()
    unsigned = F.create_dynamic_map(signed=False).numpy()
    n = len(p)
    blocks = -(-n // 256)
    mc, vc = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    ma, va = np.zeros(blocks, f32), np.zeros(blocks, f32)
    for t, raw in enumerate(grads, 1):
        ok = np.isfinite(raw)
        g = (np.where(ok, raw, 0).astype(f32) * f32(o["grad_scale"])).astype(f32)
        new_p, m, v = update(o, t, p, g, (signed[mc] * by_block(ma, n)).astype(f32),
                             (unsigned[vc] * by_block(va, n)).astype(f32))
        p, m, v = np.where(ok, new_p, p), np.where(ok, m, f32(0)), np.where(ok, v, f32(0))
        ma, va = block_max(m), block_max(v)
        with np.errstate(invalid="ignore", divide="ignore"):
            mc = nearest(signed, (m / by_block(ma, n)).astype(f32))
            vc = nearest(unsigned, (v / by_block(va, n)).astype(f32))
        mc = np.where((m < 0) & (signed[mc] >= 0), mc - 1, mc)
        mc = np.where((m > 0) & (signed[mc] < 0), mc + 1, mc)
        mc = np.where(by_block(ma, n) == 0, 127, mc).astype(np.uint8)
        vc = np.where(by_block(va, n) == 0, 0, vc).astype(np.uint8)
    return {"p": crc(p), "m_codes": crc(mc), "v_codes": crc(vc), "m_absmax": crc(ma),
            "v_absmax": crc(va)}


def model_32bit(o, p, grads):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, raw in enumerate(grads, 1):
        p, m, v = update(o, t, p, (raw * f32(o["grad_scale"])).astype(f32), m, v)
    return {"p": crc(p), "m": crc(m), "v": crc(v)}


def gradients(n, steps, seed):
    """Block 1 is zero at every step, block 2 at all but the first."""
    grads = []
    for t in range(steps):
        u = uniform(n, seed + t)
        g = ((u * u).astype(f32) * u).astype(f32) * f32(2.0**-6)
        block = np.arange(n) // 256
        g[block == 1] = 0
        if t > 0:
            g[block == 2] = 0
        grads.append(g.astype(f32))
    return grads


def adam_case(n, o, seed, bits, poison=False):
    p, grads = uniform(n, seed + 1000), gradients(n, 10, seed)
    case = {"n": n, "seed": seed, "poison": poison, **o}
    model_grads = [g.copy() for g in grads]
    if poison:
        model_grads[4][7], model_grads[4][1500] = np.nan, np.inf
    case["kernel"] = (model_8bit if bits == 8 else model_32bit)(o, p.copy(), model_grads)
    if bits == 8:
        return case
    param = torch.nn.Parameter(torch.from_numpy(p.copy()))
    optimizer = bnb.optim.AdamW8bit([param], lr=o["lr"], betas=(o["beta1"], o["beta2"]),
                                    eps=o["eps"], weight_decay=o["weight_decay"])
    for g in grads:
        param.grad = torch.from_numpy((g * f32(o["grad_scale"])).astype(f32))
        optimizer.step()
    assert optimizer.state[param]["state1"].dtype == torch.float32
    case["cpu_backend"] = {"p_stride": 7, "p": [float(x) for x in param.detach().numpy()[::7]]}
    return case


def main():
    options = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0,
               "grad_scale": 1.0}
    decayed = {**options, "lr": 2e-4, "weight_decay": 0.1, "grad_scale": 0.5, "beta2": 0.95}
    goldens = {
        "signed_map": crc(F.create_dynamic_map(signed=True).numpy()),
        "unsigned_map": crc(F.create_dynamic_map(signed=False).numpy()),
        "nf4": [
            *(nf4_case((64, 64), t, 1) for t in (torch.float32, torch.bfloat16, torch.float16)),
            nf4_case((576, 1536), torch.bfloat16, 2),
            nf4_case((576, 1536), torch.float32, 3),
            nf4_case((7, 31), torch.float32, 4),
            nf4_case((3, 100), torch.bfloat16, 5),
            nf4_case((1, 63), torch.float16, 6),
            nf4_case((256, 64), torch.float32, 7),
        ],
        "fp4": [fp4_case((64, 64), torch.float32, 1), fp4_case((576, 1536), torch.bfloat16, 2),
                fp4_case((8, 64), torch.float16, 6)],
        "int8": [int8_case((64, 64), torch.float32, 1), int8_case((192, 576), torch.bfloat16, 2),
                 int8_case((7, 31), torch.float16, 4)],
        "adam8": [adam_case(4396, options, 10, 8), adam_case(5120, decayed, 30, 8),
                  adam_case(4396, decayed, 50, 8, poison=True)],
        "adam32": [adam_case(1000, options, 70, 32), adam_case(1023, decayed, 90, 32)],
    }
    lines = []
    for key, value in goldens.items():
        cases = value if isinstance(value[0], dict) else None
        body = "[\n  " + ",\n  ".join(map(json.dumps, cases)) + "]" if cases else json.dumps(value)
        lines.append(f"{json.dumps(key)}: {body}")
    path = pathlib.Path(__file__).with_name("kernels.json")
    path.write_text("{" + ",\n ".join(lines) + "}\n")


if __name__ == "__main__":
    main()
