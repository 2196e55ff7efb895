//! gRPC reflection, for tools without .proto files.

use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{TestServer, temporary_store};

const SERVICES: [&str; 7] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "halfhitch.v1.AutoencoderService",
    "halfhitch.v1.JobService",
    "halfhitch.v1.ModelService",
    "inference.GRPCInferenceService",
];

#[tokio::test(flavor = "multi_thread")]
async fn all_services_are_listed_and_described() {
    let folder = temporary_store();
    let server = TestServer::start(folder.path()).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let ask = |message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("halfhitch.v1.AutoencoderService".to_owned())),
        ask(MessageRequest::FileContainingSymbol("inference.GRPCInferenceService.ModelInfer".to_owned())),
        ask(MessageRequest::FileContainingSymbol("halfhitch.v2".to_owned())),
    ]);
    let mut answers = client.server_reflection_info(questions).await.expect("answered").into_inner();
    let mut next = async || answers.message().await.map(|answer| answer?.message_response);
    let Ok(Some(MessageResponse::ListServicesResponse(listed))) = next().await else { panic!("a list") };
    let mut listed: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    listed.sort_unstable();
    assert_eq!(listed.iter().filter(|name| SERVICES.contains(&name.as_str())).count(), listed.len(), "{listed:?}");
    for name in ["grpc.health.v1.Health", "halfhitch.v1.JobService", "inference.GRPCInferenceService"] {
        assert!(listed.iter().any(|service| service == name), "{name} of {listed:?}");
    }
    for _ in 0..2 {
        let Ok(Some(MessageResponse::FileDescriptorResponse(files))) = next().await else { panic!("files") };
        assert!(!files.file_descriptor_proto.is_empty());
    }
    assert!(next().await.is_err(), "there is no such symbol");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_v1alpha_is_supported() {
    use v1alpha::server_reflection_client::ServerReflectionClient;
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let folder = temporary_store();
    let server = TestServer::start(folder.path()).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileByFilename("halfhitch/v1/model.proto".to_owned())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([question])).await.expect("told").into_inner();
    let answer = answers.message().await.expect("told").and_then(|answer| answer.message_response);
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    drop(answers);
    server.stop().await;
}
