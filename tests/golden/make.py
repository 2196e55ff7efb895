"""Makes the reference vectors of this folder: small tied autoencoders in PyTorch, independent of halfhitch.

    python tests/golden/make.py          (needs torch and safetensors; rewrites the files beside it)

For every configuration two files:

    NAME.safetensors   the model as written elsewhere: tensors and the specification, no report, no checksum
    NAME.json          rows, their codes and reconstructions, errors of each row, loss, gradients of the loss

Weights and rows are float32, all arithmetic is float64. Gradients are autograd's, of the loss in the normalised
space: the mean over rows of the sum over features of (x - x_hat)^2, or of the binary cross-entropy on logits.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent
ROWS = 5

LINEAR, RELU, GELU = {"kind": "linear"}, {"kind": "relu"}, {"kind": "gelu"}
TANH, SIGMOID = {"kind": "tanh"}, {"kind": "sigmoid"}


def leaky(slope):
    return {"kind": "leaky_relu", "slope": slope}


def elu(alpha):
    return {"kind": "elu", "alpha": alpha}


SQUARED, CROSS = "squared_error", "binary_cross_entropy"
# name: widths, encoder activations, decoder activations (entry l: the layer that uses the transpose of W_l), loss,
# normalisation, gain
CONFIGURATIONS = {
    "linear": ([6, 3], [LINEAR], [LINEAR], SQUARED, "none", False),
    "elu": ([9, 7, 5, 3], [elu(1.0), elu(0.5), LINEAR], [LINEAR, elu(1.0), elu(0.5)], SQUARED, "standardise", False),
    "relu": ([8, 6, 3], [RELU, LINEAR], [LINEAR, RELU], SQUARED, "min_max", False),
    "leaky_relu": ([8, 6, 3], [leaky(0.01), LINEAR], [LINEAR, leaky(0.2)], SQUARED, "unit_interval", False),
    "gelu": ([8, 6, 3], [GELU, LINEAR], [LINEAR, GELU], SQUARED, "standardise", False),
    "tanh_gain": ([8, 6, 3], [TANH, TANH], [LINEAR, TANH], SQUARED, "standardise", True),
    "sigmoid_gain": ([8, 6, 3], [SIGMOID, LINEAR], [LINEAR, SIGMOID], SQUARED, "min_max", True),
    "sigmoid_output": ([8, 6, 3], [elu(1.0), LINEAR], [SIGMOID, elu(1.0)], SQUARED, "unit_interval", False),
    "cross_entropy": ([8, 6, 3], [elu(1.0), LINEAR], [SIGMOID, elu(1.0)], CROSS, "unit_interval", False),
    "cross_entropy_gain": ([7, 5, 4], [TANH, SIGMOID], [SIGMOID, TANH], CROSS, "none", True),
    "expanding": ([5, 9, 17, 2], [GELU, RELU, LINEAR], [LINEAR, leaky(0.01), TANH], SQUARED, "standardise", True),
}


def apply(activation, x):
    match activation["kind"]:
        case "linear":
            return x
        case "relu":
            return torch.relu(x)
        case "leaky_relu":
            return torch.nn.functional.leaky_relu(x, activation["slope"])
        case "elu":
            return torch.nn.functional.elu(x, activation["alpha"])
        case "gelu":
            return torch.nn.functional.gelu(x, approximate="none")
        case "tanh":
            return torch.tanh(x)
        case "sigmoid":
            return torch.sigmoid(x)


def draw_rows(features, normalisation, generator):
    """Rows that their normalisation makes sense for."""
    uniform = torch.rand(ROWS, features, generator=generator)
    match normalisation:
        case "none":
            return uniform
        case "unit_interval":
            return (uniform * 256).floor()
        case _:
            return uniform * torch.logspace(-1, 3, features) - 2


def normaliser(rows, normalisation):
    match normalisation:
        case "none":
            return {}
        case "standardise":
            offset, scale = rows.mean(0), rows.std(0, unbiased=False)
        case "min_max":
            offset, scale = rows.amin(0), rows.amax(0) - rows.amin(0)
        case "unit_interval":
            offset, scale = torch.zeros(rows.shape[1]), torch.full((rows.shape[1],), 255.0)
    return {"normalisation.offset": offset, "normalisation.scale": scale}


def numbers(tensor):
    """Nine digits are more than a float32 has."""
    return [float(f"{value:.9g}") for value in tensor.detach().flatten().tolist()]


def make(name, seed):
    widths, encoder, decoder, loss_kind, normalisation, gain = CONFIGURATIONS[name]
    layers = len(widths) - 1
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    rows = draw_rows(widths[0], normalisation, generator)
    tensors = normaliser(rows, normalisation)
    for l in range(layers):
        inputs, outputs = widths[l], widths[l + 1]
        tensors[f"encoder.{l}.weight"] = normal(outputs, inputs) / inputs**0.5
        tensors[f"encoder.{l}.bias"] = normal(outputs) / 4
        tensors[f"decoder.{l}.bias"] = normal(inputs) / 4
        if gain and not (l + 1 == layers and encoder[l] == LINEAR):
            tensors[f"decoder.{l}.gain"] = 1 + normal(outputs) / 2
    specification = {
        "widths": widths,
        "encoder_activations": encoder,
        "decoder_activations": decoder,
        "loss": loss_kind,
        "normalisation": normalisation,
        "gain": gain,
    }
    metadata = {"halfhitch": json.dumps({"specification": specification})}
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata)

    parameters = {key: value.double().requires_grad_() for key, value in tensors.items()}
    offset = parameters.get("normalisation.offset", torch.zeros(widths[0]).double())
    scale = parameters.get("normalisation.scale", torch.ones(widths[0]).double())
    x = (rows.double() - offset) / scale
    h = x
    for l in range(layers):
        h = apply(encoder[l], h @ parameters[f"encoder.{l}.weight"].T + parameters[f"encoder.{l}.bias"])
    code = h
    g = code
    for l in reversed(range(layers)):
        g = g * parameters.get(f"decoder.{l}.gain", torch.ones(1).double())
        logits = g @ parameters[f"encoder.{l}.weight"] + parameters[f"decoder.{l}.bias"]
        g = apply(decoder[l], logits)
    reconstruction = g * scale + offset
    if loss_kind == SQUARED:
        losses = ((g - x) ** 2).sum(1)
    else:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, x.detach(), reduction="none").sum(1)
    loss = losses.mean()
    loss.backward()

    reference = {
        "rows": numbers(rows),
        "codes": numbers(code),
        "reconstruction": numbers(reconstruction),
        "squared_errors": numbers(((g - x) ** 2).sum(1)),
        "squared_errors_input_units": numbers(((reconstruction - rows.double()) ** 2).sum(1)),
        "loss": numbers(loss)[0],
        "gradients": {
            key: numbers(value.grad) for key, value in sorted(parameters.items()) if not key.startswith("normalisation")
        },
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in reference.items())
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    for index, name in enumerate(CONFIGURATIONS):
        make(name, 1000 + index)
