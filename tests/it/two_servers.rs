//! Two servers on one store: one writes; the other reads, notices changes, and takes over.

use halfhitch::rpc::pb;
use tonic::Code;

use crate::support::eventually::eventually;
use crate::support::{TestServer, matrix, newest, sample, served, spec, temporary_store, train};

#[tokio::test(flavor = "multi_thread")]
async fn the_second_server_reads_updates_and_takes_over() {
    let store = temporary_store();
    let writer = served(store.path(), "shared", &[6, 2]).await;
    let reader = TestServer::start(store.path()).await;
    let rows = sample(50, 6, 1);
    let question = || pb::EncodeRequest { model: newest("shared"), rows: Some(matrix(6, &rows)), ..Default::default() };

    let from_writer = writer.autoencoder().await.encode(question()).await.expect("serves").into_inner();
    let from_reader = reader.autoencoder().await.encode(question()).await.expect("serves").into_inner();
    assert_eq!(from_writer, from_reader);

    let refused = train(&mut reader.autoencoder().await, spec("shared", &[6, 2]), &rows).await.expect_err("reads only");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("read-only"), "{refused:?}");
    let alias = pb::SetAliasRequest { name: "shared".into(), alias: "prod".into(), version: 1, expected_version: None };
    let refused = reader.models().await.set_alias(alias).await.expect_err("reads only");
    assert_eq!(refused.code(), Code::FailedPrecondition);

    train(&mut writer.autoencoder().await, spec("shared", &[6, 2]), &rows).await.expect("trains");
    let mut client = reader.autoencoder().await;
    eventually("the reader notices version 2", async || {
        let version = client.encode(question()).await.expect("serves").into_inner().version;
        if version == 2 { Ok(()) } else { Err(version) }
    })
    .await;

    writer.stop().await;
    let mut client = reader.autoencoder().await;
    let result =
        eventually("the reader takes over", async || train(&mut client, spec("shared", &[6, 2]), &rows).await).await;
    assert_eq!(result.version, 3);
    reader.stop().await;
}
