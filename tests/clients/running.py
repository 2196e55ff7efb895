"""A halfhitch of one's own, for the scripts beside this file."""

import contextlib
import subprocess
import tempfile

import numpy as np

FEATURES, CODE = 8, 3


@contextlib.contextmanager
def server(program, flags=()):
    """Starts the program on a free port over a temporary folder; gives its address and the folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "serve", "--listen", "127.0.0.1:0", "--store", f"{folder}/store", "--drain-seconds", "0"]
        process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            line = next(line for line in process.stdout if "http://" in line)
            yield line.rsplit("http://", 1)[1].strip(), folder
        finally:
            process.terminate()
            code = process.wait()
        assert code == 0, f"the server ended with {code}"


def rows():
    """Rows to train on: correlated, seeded."""
    random = np.random.default_rng(1)
    return (random.normal(size=(500, CODE)) @ random.normal(size=(CODE, FEATURES))).astype(np.float32)


def train(program, address, folder, name, values=None, more=()):
    """Trains a small linear model through the command line."""
    values = rows() if values is None else values
    np.save(f"{folder}/rows.npy", values)
    command = [program, "--server", f"http://{address}", "train", name, f"{folder}/rows.npy", "--code", str(CODE)]
    subprocess.run([*command, "--epochs", "3", *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
