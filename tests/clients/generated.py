"""Drives a server from Python's grpcio with stubs that grpcio-tools makes of the .proto files: every RPC, health and reflection.

    python tests/clients/generated.py target/release/halfhitch

Needs `pip install grpcio-tools grpcio-reflection grpcio-health-checking numpy`. Ends with a check that no RPC of the .proto files
was left out.
"""

import importlib
import pathlib
import sys
import tempfile

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

import running
from running import CODE, FEATURES

PROTO = pathlib.Path(__file__).parents[2] / "proto"
FILES = [
    "halfhitch/v1/autoencoder.proto",
    "halfhitch/v1/job.proto",
    "halfhitch/v1/matrix.proto",
    "halfhitch/v1/model.proto",
    "inference/grpc_service.proto",
]


class Called(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
             grpc.StreamUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Remembers which methods were called."""

    def __init__(self):
        self.methods = set()

    def _pass(self, proceed, details, request):
        self.methods.add(details.method)
        return proceed(details, request)

    intercept_unary_unary = intercept_unary_stream = _pass
    intercept_stream_unary = intercept_stream_stream = _pass


def stubs(folder):
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, *FILES]) == 0, "protoc failed"
    sys.path.insert(0, folder)
    modules = {}
    for file in FILES:
        name = file.removesuffix(".proto").replace("/", ".")
        modules[file] = (importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc"))
    return modules


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"{code} was expected")


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        modules = stubs(folder)
        with running.server(program) as (address, scratch):
            called = Called()
            plain = grpc.insecure_channel(address)
            channel = grpc.intercept_channel(plain, called)
            told(plain)
            ours(modules, channel, program, address, scratch)
            inference(modules, channel)
            healthy(plain)
            plain.close()
        everything = set()
        for messages, _ in modules.values():
            for service in messages.DESCRIPTOR.services_by_name.values():
                everything |= {f"/{service.full_name}/{method.name}" for method in service.methods}
        assert called.methods == everything, sorted(everything ^ called.methods)
        print(f"ok: all {len(everything)} RPCs were called")


def told(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    for name in ["halfhitch.v1.AutoencoderService", "inference.GRPCInferenceService", "grpc.health.v1.Health"]:
        assert name in services, services
        database.FindFileContainingSymbol(name)
    print("ok: reflection lists and describes", len(services), "services")


def ours(modules, channel, program, address, scratch):
    api, api_stubs = modules["halfhitch/v1/autoencoder.proto"]
    models, model_stubs = modules["halfhitch/v1/model.proto"]
    jobs, job_stubs = modules["halfhitch/v1/job.proto"]
    matrices, _ = modules["halfhitch/v1/matrix.proto"]
    client = api_stubs.AutoencoderServiceStub(channel)
    values = running.rows()

    def matrix(array):
        return matrices.Matrix(rows=array.shape[0], columns=array.shape[1], float32_le=array.tobytes())

    def array(message):
        return np.frombuffer(message.float32_le, np.float32).reshape(message.rows, message.columns)

    def upload(spec, end=True):
        yield api.TrainRequest(spec=spec)
        yield api.TrainRequest(chunk=api.RowChunk(number=1, rows=matrix(values)))
        if end:
            yield api.TrainRequest(finish=api.TrainFinish(chunk_count=1, row_count=len(values)))

    def spec(name, **more):
        return api.TrainSpec(model_name=name, widths=[FEATURES, CODE], epochs=3, seed=1, **more)

    answers = list(client.Train(upload(spec("m"))))
    assert answers[0].accepted.job.id and answers[-1].result.version == 1, answers
    list(client.Train(upload(spec("gaps", missing_values=True))))
    print("ok: Train")

    newest = models.ModelRef(name="m")
    first = models.ModelRef(name="m", version=1)
    question = matrix(values[:5])
    codes = client.Encode(api.EncodeRequest(model=newest, rows=question)).codes
    assert array(codes).shape == (5, CODE)
    decoded = client.Decode(api.DecodeRequest(model=first, codes=codes)).rows
    assert array(decoded).shape == (5, FEATURES)
    both = client.Reconstruct(api.ReconstructRequest(model=newest, rows=question))
    assert np.array_equal(array(both.rows), array(decoded)) and len(both.squared_errors) == 5
    scored = client.Score(api.ScoreRequest(model=newest, rows=question, reasons=1))
    assert len(scored.scores) == 5
    holes = values[:5].copy()
    holes[:, 0] = np.nan
    filled = client.Impute(api.ImputeRequest(model=models.ModelRef(name="gaps"), rows=matrix(holes)))
    assert not np.isnan(array(filled.rows)).any()
    encoded = list(client.EncodeStream(iter([api.EncodeStreamRequest(model=newest, rows=question)] * 3)))
    assert len(encoded) == 3 and np.array_equal(array(encoded[2].codes), array(codes))
    restored = list(client.DecodeStream(iter([api.DecodeStreamRequest(model=first, codes=codes)] * 2)))
    assert len(restored) == 2
    error = refused(lambda: client.Encode(api.EncodeRequest(model=newest, rows=matrix(values[:2, :3].copy()))),
                    grpc.StatusCode.INVALID_ARGUMENT)
    assert "8" in error.details() and "3" in error.details(), error
    print("ok: Encode, Decode, Reconstruct, Score, Impute, streams")

    repository = model_stubs.ModelServiceStub(channel)
    assert [model.name for model in repository.ListModels(models.ListModelsRequest()).models] == ["gaps", "m"]
    assert len(repository.ListModelVersions(models.ListModelVersionsRequest(name="m")).versions) == 1
    described = repository.GetModelVersion(models.GetModelVersionRequest(model=newest)).version
    assert described.version == 1 and described.tensor_bytes < described.untied_tensor_bytes
    repository.SetAlias(models.SetAliasRequest(name="m", alias="prod", version=1))
    refused(lambda: repository.DeleteModelVersion(models.DeleteModelVersionRequest(name="m", version=1)),
            grpc.StatusCode.FAILED_PRECONDITION)
    file = b"".join(part.chunk for part in repository.ExportModelVersion(models.ExportModelVersionRequest(model=first)))
    parts = [models.ImportModelVersionRequest(target=models.ImportTarget(name="copy")),
             models.ImportModelVersionRequest(chunk=file)]
    assert repository.ImportModelVersion(iter(parts)).version.name == "copy"
    assert repository.InspectModel(models.InspectModelRequest(model=newest, rows=matrix(values))).layers
    assert repository.CanonicalizeModelVersion(models.CanonicalizeModelVersionRequest(model=newest)).version.version == 2
    measured = repository.OrthonormalizeModelVersion(
        models.OrthonormalizeModelVersionRequest(model=newest, rows=matrix(values)))
    assert measured.squared_error >= 0
    repository.DeleteAlias(models.DeleteAliasRequest(name="m", alias="prod"))
    repository.DeleteModelVersion(models.DeleteModelVersionRequest(name="m", version=1))
    print("ok: models")

    queue = job_stubs.JobServiceStub(channel)
    assert len(queue.ListJobs(jobs.ListJobsRequest()).jobs) == 2
    # A job that is still uploading: it can be looked at, paused, resumed and cancelled.
    begun = client.Train(upload(spec("long", idempotency_key="long"), end=False))
    job = next(begun).accepted.job
    assert queue.GetJob(jobs.GetJobRequest(id=job.id)).job.model_name == "long"
    refused(lambda: queue.PauseJob(jobs.PauseJobRequest(id=job.id)), grpc.StatusCode.FAILED_PRECONDITION)
    refused(lambda: queue.ResumeJob(jobs.ResumeJobRequest(id=job.id)), grpc.StatusCode.FAILED_PRECONDITION)
    watched = queue.WatchJob(jobs.WatchJobRequest(id=job.id))
    assert next(watched).job.id == job.id
    queue.CancelJob(jobs.CancelJobRequest(id=job.id))
    list(watched)
    refused(lambda: queue.GetJob(jobs.GetJobRequest(id="nowhere")), grpc.StatusCode.NOT_FOUND)
    print("ok: jobs")


def inference(modules, channel):
    pb, stub = modules["inference/grpc_service.proto"]
    client = stub.GRPCInferenceServiceStub(channel)
    values = running.rows()[:5]

    def question(name="m", **more):
        tensor = pb.ModelInferRequest.InferInputTensor(name="X", datatype="FP32", shape=values.shape)
        return pb.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[values.tobytes()], **more)

    assert client.ServerLive(pb.ServerLiveRequest()).live and client.ServerReady(pb.ServerReadyRequest()).ready
    assert client.ModelReady(pb.ModelReadyRequest(name="m")).ready
    assert client.ServerMetadata(pb.ServerMetadataRequest()).name == "halfhitch"
    assert client.ModelMetadata(pb.ModelMetadataRequest(name="m:decode")).inputs[0].name == "CODE"
    assert client.ModelConfig(pb.ModelConfigRequest(name="m")).config.max_batch_size > 0
    answer = client.ModelInfer(question(id="7"))
    assert answer.id == "7" and answer.outputs[0].name == "CODE" and len(answer.raw_output_contents) == 1
    streamed = list(client.ModelStreamInfer(iter([question(id="a"), question("nowhere", id="b")])))
    assert streamed[0].infer_response.id == "a" and "nowhere" in streamed[1].error_message
    assert client.ModelStatistics(pb.ModelStatisticsRequest(name="m")).model_stats
    assert client.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    client.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"))
    client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"))
    print("ok: the Open Inference Protocol")


def healthy(channel):
    client = health_pb2_grpc.HealthStub(channel)
    serving, unknown = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    for name in ["", "halfhitch.v1.AutoencoderService", "inference.GRPCInferenceService", "models/m"]:
        assert client.Check(health_pb2.HealthCheckRequest(service=name)).status == serving, name
        watch = client.Watch(health_pb2.HealthCheckRequest(service=name))
        assert next(watch).status == serving, name
        watch.cancel()
    watch = client.Watch(health_pb2.HealthCheckRequest(service="models/nowhere"))
    assert next(watch).status == unknown
    watch.cancel()
    refused(lambda: client.Check(health_pb2.HealthCheckRequest(service="nowhere")), grpc.StatusCode.NOT_FOUND)
    print("ok: health, Check and Watch")


if __name__ == "__main__":
    main(sys.argv[1])
