//! Compiles the .proto files with protox, so that no `protoc` needs to be installed. Without the features `client` and
//! `server`, there is nothing to compile.

#[cfg(feature = "client")]
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
    let mut compiler = protox::Compiler::new(["proto"])?;
    // Keeps the comments: they become documentation of the generated code and are visible through reflection.
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    let folder = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(folder.join("descriptors.binpb"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_server(cfg!(feature = "server"))
        // `Bytes` share the receive buffer: the only copy is the one into the batch.
        .bytes(".halfhitch.v1")
        .bytes(".inference")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

#[cfg(not(feature = "client"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
