//! Compiles the .proto files with protox, so that no `protoc` needs to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/halfhitch/v1/autoencoder.proto",
        "proto/halfhitch/v1/job.proto",
        "proto/halfhitch/v1/matrix.proto",
        "proto/halfhitch/v1/model.proto",
        "proto/inference/grpc_service.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // `Bytes` share the receive buffer: the only copy is the one into the batch.
        .bytes(".halfhitch.v1")
        .bytes(".inference")
        .compile_fds(descriptors)?;
    Ok(())
}
