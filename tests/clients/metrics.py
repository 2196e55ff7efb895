"""Has Prometheus' own promtool check what /metrics says after a little load.

    python tests/clients/metrics.py PROMTOOL target/release/halfhitch

tests/clients/run fetches it.
"""

import socket
import subprocess
import sys
import urllib.request

import running


def main(promtool, program):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    with running.server(program, ["--admin-listen", admin]) as (address, folder):
        running.train(program, address, folder, "m")
        for name in ["m", "nowhere"]:
            encode = [program, "--server", f"http://{address}", "encode", name, f"{folder}/rows.npy"]
            subprocess.run([*encode, "-o", f"{folder}/codes.npy"], check=name == "m", stderr=subprocess.DEVNULL)
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
            page = answer.read()
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr, checked
    print(f"ok: promtool has nothing to say of {page.count(b'# TYPE')} metrics")


if __name__ == "__main__":
    main(*sys.argv[1:])
