"""Writes what the reference quantizers make of a few hundred numbers: encoded.safetensors.

T.data for each type T, of the numbers in "values" [8, 256]. Types that the PyPI package gguf can encode are its; the K types are
llama.cpp's quantize_row_*_ref from a library built of the sources in the package llama-cpp-python 0.3.36:
  cd vendor/llama.cpp/ggml && gcc -O1 -ffp-contract=off -shared -fPIC -Iinclude -Isrc src/ggml-quants.c -o quants.so -lm
Pinned: gguf 0.19.0, numpy 2.4.6. Run: python make_encoded.py quants.so
"""

import ctypes
import pathlib
import sys

import gguf
import numpy as np
import safetensors.numpy
from gguf import GGMLQuantizationType as Type

HERE = pathlib.Path(__file__).parent


def values():
    rng = np.random.default_rng(7)
    x = rng.normal(0, 0.05, (8, 256)).astype(np.float32)
    x[1] *= 1e-6                       # scales that are subnormal in f16
    x[2, :64] = 0                      # sub-blocks of zeros
    x[3] = np.abs(x[3])                # no negative minimum
    x[4, 5] = 3.0                      # an outlier
    x[5] = 0
    x[6] = np.round(x[6] * 64) / 64    # ties
    x[7] = rng.standard_t(3, 256).astype(np.float32) * np.float32(0.02)
    return x


def main():
    library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL | 1)
    x = values()
    tensors = {"values": x}
    for name in ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]:
        tensors[name + ".data"] = np.ascontiguousarray(gguf.quantize(x, Type[name])).view(np.uint8).ravel()
    for name in ["Q4_K", "Q5_K", "Q6_K"]:
        block, size = gguf.GGML_QUANT_SIZES[Type[name]]
        out = np.zeros(x.size // block * size, np.uint8)
        encode = getattr(library, f"quantize_row_{name.lower().replace('_k', '_K')}_ref")
        encode(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
        tensors[name + ".data"] = out
        error = np.abs(gguf.dequantize(out, Type[name]).ravel() - x.ravel()).max()
        assert error < 0.2, (name, error)
    safetensors.numpy.save_file(tensors, HERE / "encoded.safetensors")


if __name__ == "__main__":
    main()
