//! Requests that are not gRPC get an HTTP error before any handler runs.

use halfhitch::rpc::pb;
use prost::Message as _;

use crate::support::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, frame, header};
use crate::support::{served, temporary_store};

const SET_ALIAS: &str = "/halfhitch.v1.ModelService/SetAlias";

/// The HTTP status of the response to a SetAlias request.
async fn asked(raw: &mut Raw, stream: u32, method: &str, content_type: Option<&str>) -> String {
    let alias = pb::SetAliasRequest { name: "m".into(), alias: "prod".into(), version: 1, expected_version: None };
    let mut body = vec![0];
    body.extend((alias.encoded_len() as u32).to_be_bytes());
    body.extend(alias.encode_to_vec());
    let all = [(":method", method), (":scheme", "http"), (":path", SET_ALIAS), (":authority", "localhost")];
    let all = all.into_iter().chain(content_type.map(|value| ("content-type", value)));
    let block: Vec<u8> = all.flat_map(|(name, value)| header(name, value)).collect();
    assert!(raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await);
    assert!(raw.send(&frame(DATA, END_STREAM, stream, &body)).await);
    loop {
        let frame = raw.frame().await.expect("answered");
        if frame.kind == HEADERS && frame.stream == stream {
            // HPACK: `:status` is the first header, either one byte for the static table or a literal.
            return match frame.payload[0] {
                0x88 => "200".to_owned(),
                _ => String::from_utf8_lossy(&frame.payload).into_owned(),
            };
        }
    }
}

#[tokio::test]
async fn only_grpc_reaches_a_handler() {
    let store = temporary_store();
    let server = served(store.path(), "m", &[6, 2]).await;
    let mut raw = Raw::connect(server.address()).await;
    raw.settle().await;
    let aliases = async || {
        let request = pb::ListModelsRequest::default();
        server.models().await.list_models(request).await.expect("lists").into_inner().models[0].aliases.len()
    };
    let mut streams = (1..).step_by(2);
    let mut next = || streams.next().expect("endless");
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/grpc-web")]
    {
        let status = asked(&mut raw, next(), "POST", content_type).await;
        assert_ne!(status, "200", "{content_type:?}");
    }
    for method in ["GET", "PUT", "OPTIONS"] {
        assert_ne!(asked(&mut raw, next(), method, Some("application/grpc")).await, "200", "{method}");
    }
    assert_eq!(aliases().await, 0, "nothing was done");
    assert_eq!(asked(&mut raw, next(), "POST", Some("application/grpc+proto")).await, "200");
    assert_eq!(aliases().await, 1);
    drop(raw);
    server.stop().await;
}
