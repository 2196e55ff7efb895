//! Published models: listing, aliases, deletion, import and export.

use halfhitch::rpc::pb;
use pb::import_model_version_request::Message as Import;
use tonic::{Code, Status};

use crate::support::{
    TestServer, alias, matrix, newest, numbers, sample, served, spec, temporary_store, train, version,
};

#[tokio::test(flavor = "multi_thread")]
async fn listings_come_in_pages() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let rows = sample(60, 5, 1);
    for name in ["c", "a", "b"] {
        train(&mut client, spec(name, &[5, 2]), &rows).await.expect("trains");
    }
    for _ in 0..2 {
        train(&mut client, spec("a", &[5, 2]), &rows).await.expect("trains");
    }
    let mut models = server.models().await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = models.list_models(pb::ListModelsRequest { page_size: 2, page_token }).await.expect("lists");
        let page = page.into_inner();
        assert!(page.models.len() <= 2);
        names.extend(page.models.iter().map(|model| (model.name.clone(), model.latest_version)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, [("a".into(), 3), ("b".into(), 1), ("c".into(), 1)]);

    let request = |page_token: &str| pb::ListModelVersionsRequest {
        name: "a".into(),
        page_size: 2,
        page_token: page_token.into(),
    };
    let first = models.list_model_versions(request("")).await.expect("lists").into_inner();
    let numbers = |versions: &[pb::ModelVersion]| versions.iter().map(|v| v.version).collect::<Vec<_>>();
    assert_eq!(numbers(&first.versions), [3, 2]);
    let second = models.list_model_versions(request(&first.next_page_token)).await.expect("lists").into_inner();
    assert_eq!(numbers(&second.versions), [1]);
    assert_eq!(second.next_page_token, "");
    let wrong = models.list_model_versions(request("x")).await.expect_err("no token");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_described_with_its_report() {
    let store = temporary_store();
    let server = served(store.path(), "told", &[8, 5, 3]).await;
    let request = pb::GetModelVersionRequest { model: newest("told") };
    let got = server.models().await.get_model_version(request).await.expect("exists").into_inner();
    let got = got.version.expect("a version");
    assert_eq!(got.spec.as_ref().expect("a specification").widths, [8, 5, 3]);
    assert_eq!(got.training_report.expect("a report").epochs.len(), 3);
    assert!(got.tensor_bytes < got.untied_tensor_bytes);
    assert!(got.file_bytes > got.tensor_bytes);
    assert_eq!(got.sha256.len(), 64);
    let path = store.path().join("models/told/1/model.safetensors");
    assert_eq!(path.metadata().expect("the file").len(), got.file_bytes);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_moves_only_from_the_expected_version() {
    let store = temporary_store();
    let server = served(store.path(), "moves", &[6, 2]).await;
    train(&mut server.autoencoder().await, spec("moves", &[6, 2]), &sample(60, 6, 2)).await.expect("trains");
    let mut models = server.models().await;
    let set = |version, expected_version| pb::SetAliasRequest {
        name: "moves".into(),
        alias: "prod".into(),
        version,
        expected_version,
    };
    let previous = |answer: Result<tonic::Response<pb::SetAliasResponse>, Status>| {
        answer.map(|answer| answer.into_inner().previous_version).map_err(|status| status.code())
    };
    assert_eq!(previous(models.set_alias(set(1, Some(0))).await), Ok(0));
    assert_eq!(previous(models.set_alias(set(2, Some(0))).await), Err(Code::Aborted));
    assert_eq!(previous(models.set_alias(set(2, Some(2))).await), Err(Code::Aborted));
    assert_eq!(previous(models.set_alias(set(2, Some(1))).await), Ok(1));
    assert_eq!(previous(models.set_alias(set(1, None)).await), Ok(2));
    assert_eq!(previous(models.set_alias(set(7, None)).await), Err(Code::NotFound));

    let question = pb::EncodeRequest {
        model: alias("moves", "prod"),
        rows: Some(matrix(6, &sample(1, 6, 1))),
        ..Default::default()
    };
    assert_eq!(server.autoencoder().await.encode(question).await.expect("encodes").into_inner().version, 1);

    let delete = |version| pb::DeleteModelVersionRequest { name: "moves".into(), version };
    let refused = models.delete_model_version(delete(1)).await.expect_err("has an alias");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("prod"), "{refused:?}");
    let drop_alias =
        |expected_version| pb::DeleteAliasRequest { name: "moves".into(), alias: "prod".into(), expected_version };
    assert_eq!(models.delete_alias(drop_alias(Some(2))).await.expect_err("elsewhere").code(), Code::Aborted);
    models.delete_alias(drop_alias(Some(1))).await.expect("points there");
    assert_eq!(models.delete_alias(drop_alias(None)).await.expect_err("gone").code(), Code::NotFound);
    for bad in ["latest", "12", "Prod"] {
        let request =
            pb::SetAliasRequest { name: "moves".into(), alias: bad.into(), version: 1, expected_version: None };
        assert_eq!(models.set_alias(request).await.expect_err("no alias").code(), Code::InvalidArgument, "{bad}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_versions_number_never_comes_back() {
    let store = temporary_store();
    let server = served(store.path(), "gone", &[6, 2]).await;
    let mut models = server.models().await;
    let delete = |version| pb::DeleteModelVersionRequest { name: "gone".into(), version };
    models.delete_model_version(delete(1)).await.expect("exists");
    assert_eq!(models.delete_model_version(delete(1)).await.expect_err("gone").code(), Code::NotFound);
    let question =
        pb::EncodeRequest { model: version("gone", 1), rows: Some(matrix(6, &sample(1, 6, 1))), ..Default::default() };
    assert_eq!(server.autoencoder().await.encode(question).await.expect_err("gone").code(), Code::NotFound);
    server.stop().await;
    let server = TestServer::start(store.path()).await;
    let result = train(&mut server.autoencoder().await, spec("gone", &[6, 2]), &sample(60, 6, 2)).await;
    assert_eq!(result.expect("trains").version, 2);
    server.stop().await;
}

async fn export(server: &TestServer, name: &str) -> Vec<u8> {
    let request = pb::ExportModelVersionRequest { model: newest(name) };
    let mut chunks = server.models().await.export_model_version(request).await.expect("exists").into_inner();
    let mut file = Vec::new();
    while let Some(message) = chunks.message().await.expect("goes well") {
        file.extend_from_slice(&message.chunk);
    }
    file
}

async fn import(server: &TestServer, name: &str, file: &[u8]) -> Result<pb::ModelVersion, Status> {
    let target = Import::Target(pb::ImportTarget { name: name.into() });
    let chunks = file.chunks(1000).map(|chunk| Import::Chunk(chunk.to_vec().into()));
    let messages: Vec<_> = std::iter::once(target)
        .chain(chunks)
        .map(|message| pb::ImportModelVersionRequest { message: Some(message) })
        .collect();
    let answer = server.models().await.import_model_version(tokio_stream::iter(messages)).await?;
    Ok(answer.into_inner().version.expect("a version"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_file_imports_as_the_same_model() {
    let store = temporary_store();
    let server = served(store.path(), "travels", &[9, 6, 4]).await;
    let file = export(&server, "travels").await;
    assert_eq!(file, std::fs::read(store.path().join("models/travels/1/model.safetensors")).expect("the file"));
    let copy = import(&server, "copy", &file).await.expect("imports");
    assert_eq!((copy.name.as_str(), copy.version), ("copy", 1));
    assert_eq!(export(&server, "copy").await, file, "canonical: the same model is the same bytes");
    let rows = sample(4, 9, 3);
    let mut client = server.autoencoder().await;
    let mut codes = async |name| {
        let question = pb::EncodeRequest { model: newest(name), rows: Some(matrix(9, &rows)), ..Default::default() };
        numbers(client.encode(question).await.expect("encodes").into_inner().codes)
    };
    assert_eq!(codes("travels").await, codes("copy").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_refused_and_leave_nothing_behind() {
    let store = temporary_store();
    let server = served(store.path(), "whole", &[6, 2]).await;
    let file = export(&server, "whole").await;
    let mut flipped = file.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    for broken in [&file[..file.len() - 1], &file[..20], &[], &flipped] {
        let status = import(&server, "broken", broken).await.expect_err("broken");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let listed = server.models().await.list_models(pb::ListModelsRequest::default()).await.expect("lists");
    let names: Vec<_> = listed.into_inner().models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["whole"]);
    server.stop().await;
}

/// A damaged model file fails alone; the others are still served.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_version_fails_alone() {
    let store = temporary_store();
    let server = served(store.path(), "rots", &[6, 2]).await;
    train(&mut server.autoencoder().await, spec("fine", &[6, 2]), &sample(60, 6, 2)).await.expect("trains");
    server.stop().await;
    let path = store.path().join("models/rots/1/model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the file");
    let middle = bytes.len() - 10;
    bytes[middle] ^= 0x40;
    std::fs::write(&path, bytes).expect("writes");
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let question =
        |name| pb::EncodeRequest { model: newest(name), rows: Some(matrix(6, &sample(1, 6, 1))), ..Default::default() };
    let status = client.encode(question("rots")).await.expect_err("damaged");
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
    assert!(status.message().contains("damaged"), "{status:?}");
    client.encode(question("fine")).await.expect("goes on");
    server.stop().await;
}
