//! A row's result has the same bits alone and in any batch.

use halfhitch::rpc::pb;

use crate::support::{matrix, newest, numbers, sample, served, temporary_store, version};

/// Encodes and decodes row 0 in batches of many sizes, at several positions; prints every size that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_the_same_in_every_batch() {
    for widths in [&[20, 12, 5][..], &[7, 3], &[33, 50, 17, 9]] {
        let store = temporary_store();
        let server = served(store.path(), "bits", widths).await;
        let mut client = server.autoencoder().await;
        let columns = widths[0] as usize;
        let length = *widths.last().expect("widths") as usize;
        let row = sample(1, columns, 99);
        let mut encode = async |rows: &[f32]| {
            let question =
                pb::EncodeRequest { model: newest("bits"), rows: Some(matrix(columns, rows)), ..Default::default() };
            numbers(client.encode(question).await.expect("encodes").into_inner().codes)
        };
        let mut client = server.autoencoder().await;
        let mut decode = async |codes: &[f32]| {
            let question = pb::DecodeRequest {
                model: version("bits", 1),
                codes: Some(matrix(length, codes)),
                ..Default::default()
            };
            numbers(client.decode(question).await.expect("decodes").into_inner().rows)
        };
        let code = encode(&row).await;
        let back = decode(&code).await;
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let mut failed = Vec::new();
        for size in (1..=40).chain([47, 48, 49, 63, 64, 65, 100, 128, 255, 256, 257, 600]) {
            for position in [0, size / 2, size - 1] {
                let mut rows = sample(size, columns, size as u64);
                rows[position * columns..][..columns].copy_from_slice(&row);
                if bits(&encode(&rows).await[position * length..][..length]) != bits(&code) {
                    failed.push(("encode", size, position));
                }
                let mut codes = sample(size, length, size as u64);
                codes[position * length..][..length].copy_from_slice(&code);
                if bits(&decode(&codes).await[position * columns..][..columns]) != bits(&back) {
                    failed.push(("decode", size, position));
                }
            }
        }
        assert!(failed.is_empty(), "{widths:?}: other bits in (operation, rows, position): {failed:?}");
        server.stop().await;
    }
}

/// The same while many callers share batches.
#[tokio::test(flavor = "multi_thread")]
async fn neighbors_do_not_change_a_row() {
    let store = temporary_store();
    let server = served(store.path(), "bits", &[16, 9, 4]).await;
    let rows = sample(64, 16, 5);
    let question = pb::EncodeRequest { model: newest("bits"), rows: Some(matrix(16, &rows)), ..Default::default() };
    let together = numbers(server.autoencoder().await.encode(question).await.expect("encodes").into_inner().codes);
    let client = server.autoencoder().await;
    let callers: Vec<_> = (0..64)
        .map(|i| {
            let mut client = client.clone();
            let row = rows[i * 16..][..16].to_vec();
            tokio::spawn(async move {
                let question =
                    pb::EncodeRequest { model: newest("bits"), rows: Some(matrix(16, &row)), ..Default::default() };
                numbers(client.encode(question).await.expect("encodes").into_inner().codes)
            })
        })
        .collect();
    for (i, caller) in callers.into_iter().enumerate() {
        let alone = caller.await.expect("no panic");
        let expected = &together[i * 4..][..4];
        assert!(alone.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "row {i}: {alone:?} {expected:?}");
    }
    server.stop().await;
}
