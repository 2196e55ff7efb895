"""Trains the model of the benchmark `training` in PyTorch on the CPU, tied and untied, and prints the speed.

    python benches/peers/pytorch.py [--batch 128] [--threads 1] [--seconds 2]

784-1000-500-250-30 with ELU in the hidden layers, a linear code, cross-entropy on logits, and Adam (fused, PyTorch's
fastest); the same rows. Tied: the decoder is `F.linear(h, W.t())`. Untied: it has its own matrices. As in that
benchmark, each epoch has a new random order, and each step gathers its rows.
"""

import argparse
import time

import torch
import torch.nn.functional as F

WIDTHS = [784, 1000, 500, 250, 30]
ROWS = 8192
LEARNING_RATE = 1e-4
STEPS_WARM_UP = 3
STEPS_MIN = 3


class Autoencoder(torch.nn.Module):
    """A matrix (d_l, d_{l-1}) per encoder layer; the decoder uses its transpose, or has its own."""

    def __init__(self, widths, tied):
        super().__init__()
        pairs = list(zip(widths, widths[1:]))
        self.weights = torch.nn.ParameterList(glorot(outputs, inputs) for inputs, outputs in pairs)
        self.decoders = None if tied else torch.nn.ParameterList(glorot(inputs, outputs) for inputs, outputs in pairs)
        self.encoder_biases = torch.nn.ParameterList(torch.zeros(outputs) for _, outputs in pairs)
        self.decoder_biases = torch.nn.ParameterList(torch.zeros(inputs) for inputs, _ in pairs)

    def forward(self, x):
        """Logits of the reconstruction. Shapes: x (n, d_0) -> (n, d_0)."""
        h, last = x, len(self.weights) - 1
        for l, (w, b) in enumerate(zip(self.weights, self.encoder_biases)):
            h = F.linear(h, w, b)
            h = h if l == last else F.elu(h)
        for l in range(last, -1, -1):
            w = self.weights[l].t() if self.decoders is None else self.decoders[l]
            h = F.linear(h, w, self.decoder_biases[l])
            h = h if l == 0 else F.elu(h)
        return h


def glorot(outputs, inputs):
    return torch.nn.Parameter(torch.nn.init.xavier_uniform_(torch.empty(outputs, inputs)))


def rows():
    """The rows of `benches/training`: values from 0 to 1. Shape (ROWS, d_0)."""
    numbers = torch.arange(ROWS * WIDTHS[0]) * 7_919 % 100_003
    return (numbers / 100_003).reshape(ROWS, WIDTHS[0])


def batches(count, batch):
    """Endlessly yields the row indices of the next mini-batch."""
    while True:
        yield from torch.randperm(count).split(batch)


def samples_per_s(batch, threads, tied, seconds):
    """Samples per second, measured over at least `seconds` of steps."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    x, model = rows(), Autoencoder(WIDTHS, tied)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    steps, started = -STEPS_WARM_UP, None
    for places in batches(ROWS, batch):
        if steps == 0:
            started = time.perf_counter()
        chosen = x[places]
        loss = F.binary_cross_entropy_with_logits(model(chosen), chosen, reduction="sum") / len(places)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
        if steps >= STEPS_MIN and time.perf_counter() - started >= seconds:
            return steps * batch / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    asked = parser.parse_args()
    for tied in [True, False]:
        speed = samples_per_s(asked.batch, asked.threads, tied, asked.seconds)
        print(f"{speed:10.0f} samples/s {'tied' if tied else 'untied'}")


if __name__ == "__main__":
    main()
