"""Drives a server from Python's grpcio as people write it: gzip on the channel and on a call, answers above 4 MB, names of columns.

    python tests/clients/compressed.py target/release/halfhitch

Needs `pip install grpcio-tools grpcio-health-checking grpcio-reflection numpy`.
"""

import sys
import tempfile

import grpc
import numpy as np

import running
from generated import refused, stubs
from running import CODE, FEATURES


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        modules = stubs(folder)
        with running.server(program) as (address, scratch):
            running.train(program, address, scratch, "c")
            rows, wide = modules["halfhitch/v1/autoencoder.proto"]
            matrix, _ = modules["halfhitch/v1/matrix.proto"]
            model, _ = modules["halfhitch/v1/model.proto"]
            ref = lambda: model.ModelRef(name="c")
            of = lambda values: matrix.Matrix(rows=len(values), columns=values.shape[1], float32_le=values.tobytes())
            plain = wide.AutoencoderServiceStub(grpc.insecure_channel(address))
            request = rows.EncodeRequest(model=ref(), rows=of(running.rows()))
            expected = plain.Encode(request)

            packed = wide.AutoencoderServiceStub(grpc.insecure_channel(address, compression=grpc.Compression.Gzip))
            answer = packed.Encode(request)
            assert answer == expected, "the same answer"
            assert plain.Encode(request, compression=grpc.Compression.Gzip) == expected, "on a single call"
            messages = [rows.EncodeStreamRequest(model=ref(), rows=of(running.rows())) for _ in range(3)]
            answers = list(packed.EncodeStream(iter(messages)))
            assert [answer.codes for answer in answers] == [expected.codes] * 3
            error = refused(lambda: plain.Encode(request, compression=grpc.Compression.Deflate), grpc.StatusCode.UNIMPLEMENTED)
            assert "gzip, zstd" in error.details(), error.details()

            # A message that is small on the wire, and larger than the server's bound once it is unpacked.
            zeros = np.zeros((1_000_000, FEATURES), np.float32)
            bomb = rows.EncodeRequest(model=ref(), rows=of(zeros))
            options = [("grpc.max_send_message_length", -1)]
            sender = wide.AutoencoderServiceStub(
                grpc.insecure_channel(address, options=options, compression=grpc.Compression.Gzip))
            refused(lambda: sender.Encode(bomb), grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert packed.Encode(request) == expected, "and it goes on serving"

            # An answer above what a client takes by default, and the line of the guide that raises it.
            running.train(program, address, scratch, "wide", np.tile(running.rows(), (1, 8)))
            codes = np.zeros((20_000, CODE), np.float32)
            many = rows.DecodeRequest(model=model.ModelRef(name="wide", version=1), codes=of(codes))
            error = refused(lambda: plain.Decode(many), grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert "larger than max" in error.details(), error.details()
            patient = wide.AutoencoderServiceStub(
                grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 64 << 20)]))
            assert patient.Decode(many).rows.rows == len(codes)

            # Kilobytes of a name come back as a status that grpcio understands.
            long = rows.EncodeRequest(model=model.ModelRef(name="x" * 100_000), rows=of(running.rows()))
            error = refused(lambda: plain.Encode(long), grpc.StatusCode.INVALID_ARGUMENT)
            assert "100000 bytes in all" in error.details(), error.details()
    print("compressed messages, large answers and long texts: as they should be")


if __name__ == "__main__":
    main(sys.argv[1])
