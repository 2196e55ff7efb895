"""Encode and Decode of a halfhitch file in NumPy.

    halfhitch models export NAME model.safetensors
    python tests/golden/read.py model.safetensors rows.npy [codes.npy reconstruction.npy]

Prints the codes and the reconstruction of the rows, or saves them where two more names are given. The same code reads
the files that tests/golden/make.py writes.
"""

import json
import math
import sys

import numpy as np
from safetensors import safe_open

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
}

file = safe_open(sys.argv[1], "numpy")
t = {name: file.get_tensor(name) for name in file.keys()}
spec = json.loads(file.metadata()["halfhitch"])["specification"]
offset, scale = t.get("normalisation.offset", 0), t.get("normalisation.scale", 1)


def f(activation, x):
    return ACTIVATIONS[activation["kind"]](x, **{k: v for k, v in activation.items() if k != "kind"})


h = (np.load(sys.argv[2]) - offset) / scale
for l, activation in enumerate(spec["encoder_activations"]):
    h = f(activation, h @ t[f"encoder.{l}.weight"].T + t[f"encoder.{l}.bias"])
codes = h
for l, activation in reversed(list(enumerate(spec["decoder_activations"]))):
    h = f(activation, (h * t.get(f"decoder.{l}.gain", 1)) @ t[f"encoder.{l}.weight"] + t[f"decoder.{l}.bias"])
reconstruction = h * scale + offset

if len(sys.argv) == 5:
    np.save(sys.argv[3], codes)
    np.save(sys.argv[4], reconstruction)
else:
    print("codes", codes, "reconstruction", reconstruction, sep="\n")
