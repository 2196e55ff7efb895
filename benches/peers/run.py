"""Compares training speed with PyTorch on the same machine: halfhitch, PyTorch tied, PyTorch untied, in each round.

    python benches/peers/run.py [--json] [--rounds 5] [--seconds 1] [--program PATH] [FILTER]

Builds `cargo bench --bench training` first, unless --program is given. Figures are medians over the rounds. The ratio
is the median of the rounds' ratios (halfhitch / PyTorch: above 1, halfhitch is faster). FILTER: run only cases whose
name contains this text.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytorch

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCHES = [128, 512]
PEERS = {"PyTorch tied": True, "PyTorch untied": False}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one object per line, like the other benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1, help="seconds of PyTorch per case and round; halfhitch uses its own")
    parser.add_argument("--program", help="path of the built benchmark `training`")
    parser.add_argument("filter", nargs="?", default="")
    asked = parser.parse_args()
    program = asked.program or build()
    cases = [
        (f"mnist-deep batch={batch} threads={threads}", batch, threads)
        for batch in BATCHES
        # One thread, and all cores, like the benchmark.
        for threads in sorted({1, cores()})
    ]
    cases = [case for case in cases if asked.filter in case[0]]
    rounds = {name: [] for name, _, _ in cases}
    for _ in range(asked.rounds):
        for name, batch, threads in cases:
            found = {"ours": ours(program, name)}
            for peer, tied in PEERS.items():
                found[peer] = pytorch.samples_per_s(batch, threads, tied, asked.seconds)
            rounds[name].append(found)
    report(rounds, asked.json)


def cores():
    return len(os.sched_getaffinity(0))


def build():
    """Builds the benchmark, and returns the path of its program."""
    command = ["cargo", "bench", "--bench", "training", "--no-run", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    programs = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "training"]
    if not programs:
        sys.exit("peers: cargo did not report a program `training`")
    return programs[-1]


def ours(program, case):
    """Samples/s of one short run of halfhitch."""
    output = subprocess.run([program, "--quick", "--json", case], check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in output.splitlines()]
    return next(line["figure"] for line in lines if line["case"] == case and line["unit"] == "samples/s")


def report(rounds, as_json):
    if not as_json:
        print(f"{'samples/s':>10} {'vs':16} {'samples/s':>10} {'ratio':>6}")
    for case, found in rounds.items():
        if not as_json:
            print(case)
        for peer in PEERS:
            figure = statistics.median(one["ours"] for one in found)
            theirs = statistics.median(one[peer] for one in found)
            ratio = statistics.median(one["ours"] / one[peer] for one in found)
            if as_json:
                unit = f"samples/s, vs {peer}"
                line = {"bench": "peers", "case": case, "figure": figure, "unit": unit}
                print(json.dumps(line | {"ceiling": theirs, "ratio": ratio}))
            else:
                print(f"{figure:10.0f} {peer:16} {theirs:10.0f} {ratio:6.3f}")


if __name__ == "__main__":
    main()
