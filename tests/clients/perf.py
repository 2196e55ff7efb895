"""Sweeps concurrency 1 to 64 on encode with Triton's perf_analyzer, as it is.

    python tests/clients/perf.py PERF_ANALYZER target/release/halfhitch

tests/clients/run fetches it. It repeats each level until three windows in a row agree within a tenth; a level that never does fails
the sweep.
"""

import subprocess
import sys

import running


def main(analyzer, program):
    with running.server(program, ["--warm-models", "m"]) as (address, folder):
        running.train(program, address, folder, "m")
        command = [analyzer, "-m", "m", "-u", address, "-i", "grpc", "--concurrency-range", "1:64:9"]
        # Windows of half a second, and more of them than the ten of the default: other programs use this machine, too.
        subprocess.run([*command, "--measurement-interval", "500", "--max-trials", "30"], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
