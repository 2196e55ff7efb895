"""Drives a server with Triton's own Python client: what works there has to work here.

    python tests/clients/triton.py target/release/halfhitch

Needs `pip install 'tritonclient[grpc]'`. Starts the server that it is given on a free port over a temporary folder, and trains a
small model. Says which steps passed; the first that fails ends it.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

import running
from running import CODE, FEATURES


def main(program):
    with running.server(program) as (address, folder):
        running.train(program, address, folder, "m")
        with triton.InferenceServerClient(address) as client:
            for step in STEPS:
                step(client, running.rows()[:5])
                print(f"ok: {step.__doc__}")


def tensor(name, values, datatype="FP32"):
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def refused(call, code, text):
    try:
        call()
    except InferenceServerException as error:
        assert code in error.status() and text in error.message(), error
    else:
        raise AssertionError(f"{code} was expected")


def alive(client, _):
    """live, ready, server metadata"""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("m") and client.is_model_ready("m:decode", "1")
    metadata = client.get_server_metadata(as_json=True)
    assert metadata["name"] == "halfhitch" and "statistics" in metadata["extensions"], metadata


def described(client, _):
    """model metadata and config"""
    metadata = client.get_model_metadata("m:reconstruct", as_json=True)
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": ["-1", str(FEATURES)]}], metadata
    assert [output["name"] for output in metadata["outputs"]] == ["X_HAT", "ERROR"], metadata
    config = client.get_model_config("m", as_json=True)["config"]
    assert config["input"][0]["dims"] == [str(FEATURES)] and config["max_batch_size"] > 0, config


def inferred(client, rows):
    """encode, decode, reconstruct"""
    codes = client.infer("m", [tensor("X", rows)], request_id="a")
    assert codes.get_response().id == "a" and codes.get_response().model_version == "1"
    codes = codes.as_numpy("CODE")
    assert codes.shape == (5, CODE) and codes.dtype == np.float32
    decoded = client.infer("m:decode", [tensor("CODE", codes)], model_version="1").as_numpy("X")
    both = client.infer("m:reconstruct", [tensor("X", rows)])
    assert np.array_equal(decoded, both.as_numpy("X_HAT")) and both.as_numpy("ERROR").shape == (5, 1)
    wanted = [triton.InferRequestedOutput("ERROR")]
    one = client.infer("m:reconstruct", [tensor("X", rows)], outputs=wanted)
    assert one.as_numpy("X_HAT") is None and np.array_equal(one.as_numpy("ERROR"), both.as_numpy("ERROR"))
    asked = client.infer("m", [tensor("X", rows)], parameters={"operation": "reconstruct"})
    assert np.array_equal(asked.as_numpy("X_HAT"), decoded)
    for datatype, kind in [("FP16", np.float16), ("FP64", np.float64)]:
        exact = np.round(rows * 4).astype(kind) / kind(4)
        same = client.infer("m", [tensor("X", exact, datatype)]).as_numpy("CODE")
        plain = client.infer("m", [tensor("X", exact.astype(np.float32))]).as_numpy("CODE")
        # 64-bit rows are normalized in 64 bits and rounded once: their codes differ by rounding alone.
        close = np.array_equal(same, plain) if kind is np.float16 else np.allclose(same, plain, rtol=1e-5, atol=1e-5)
        assert close, datatype


def counted(client, rows):
    """statistics"""

    def figures():
        return client.get_inference_statistics("m", as_json=True)["model_stats"][0]

    before = figures()
    client.infer("m", [tensor("X", rows)])
    after = figures()
    assert int(after["inference_count"]) == int(before["inference_count"]) + 5, (before, after)
    assert int(after["inference_stats"]["queue"]["count"]) == int(before["inference_stats"]["queue"]["count"]) + 1


def loaded(client, rows):
    """index, unload, load"""
    index = client.get_model_repository_index(as_json=True)["models"]
    assert index == [{"name": "m", "version": "1", "state": "READY"}], index
    client.unload_model("m")
    client.load_model("m")
    client.infer("m", [tensor("X", rows)])


def streamed(client, rows):
    """stream infer"""
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(10):
        client.async_stream_infer("m", [tensor("X", rows)], request_id=str(number))
    client.async_stream_infer("m", [tensor("Y", rows)], request_id="wrong")
    client.async_stream_infer("m", [tensor("X", rows)], request_id="after")
    got = [answers.get(timeout=10) for _ in range(12)]
    client.stop_stream()
    assert [result.get_response().id for result, error in got if error is None] == [*map(str, range(10)), "after"]
    errors = [error for _, error in got if error is not None]
    assert len(errors) == 1 and "expected X" in errors[0].message(), errors


def wrong(client, rows):
    """errors"""
    refused(lambda: client.infer("nowhere", [tensor("X", rows)]), "NOT_FOUND", "nowhere")
    refused(lambda: client.infer("m", [tensor("X", rows)], model_version="7"), "NOT_FOUND", "7")
    refused(lambda: client.infer("m", [tensor("Y", rows)]), "INVALID_ARGUMENT", "expected X")
    refused(lambda: client.infer("m", [tensor("X", rows[:, :4].copy())]), "INVALID_ARGUMENT", "8")
    refused(lambda: client.infer("m", [tensor("X", rows.astype(np.int32), "INT32")]), "INVALID_ARGUMENT", "FP32")
    refused(lambda: client.infer("m", [tensor("X", rows * np.nan)]), "INVALID_ARGUMENT", "NaN")
    refused(lambda: client.get_model_config("nowhere"), "NOT_FOUND", "nowhere")


STEPS = [alive, described, inferred, counted, loaded, streamed, wrong]

if __name__ == "__main__":
    main(sys.argv[1])
