//! Callers that cancel, over the network: other callers are not affected, and the server keeps no memory for them.

use std::time::Duration;

use halfhitch::rpc::pb;

use crate::support::process::ServerProcess;
use crate::support::{import, matrix, newest, numbers, sample, temporary_store};

const CALLERS: usize = 10_000;
/// Maximum number of floods. On a fast machine fewer callers of each flood cancel in time.
const FLOODS_MAX: usize = 10;
const CONNECTIONS: usize = 8;
/// Number of concurrent callers.
const AT_ONCE: usize = 64;
const WIDTHS: [usize; 3] = [256, 512, 64];

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_departures_leak_nothing() {
    let store = temporary_store();
    let server = ServerProcess::start(store.path());
    import(&server, "m", &WIDTHS).await;
    let rows = sample(24, WIDTHS[0], 1);
    let ask = |count: usize| pb::EncodeRequest {
        model: newest("m"),
        rows: Some(matrix(WIDTHS[0], &rows[..count * WIDTHS[0]])),
        ..Default::default()
    };
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.autoencoder().await);
    }
    let codes = numbers(clients[0].encode(ask(24)).await.expect("encodes").into_inner().codes);

    let flood = async |callers: usize| {
        let places = (0..AT_ONCE).map(|place| {
            let (mut client, codes) = (clients[place % CONNECTIONS].clone(), codes.clone());
            let questions: Vec<_> = (1..=24).map(ask).collect();
            tokio::spawn(async move {
                let (mut answered, mut left) = (0_usize, 0_usize);
                for n in 0..callers / AT_ONCE {
                    let random = (n * AT_ONCE + place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                    let count = 1 + random % 24;
                    let question = client.encode(questions[count - 1].clone());
                    let answer = if random.is_multiple_of(4) {
                        Ok(question.await)
                    } else {
                        // At a random time within about 16 ms: from before anything is sent to after the response.
                        tokio::time::timeout(Duration::from_micros((random / 32 % 16_000) as u64), question).await
                    };
                    match answer {
                        Ok(answer) => {
                            let got = numbers(answer.expect("encodes").into_inner().codes);
                            assert_eq!(got, codes[..count * WIDTHS[2]], "the same code in any company");
                            answered += 1;
                        }
                        Err(_) => left += 1,
                    }
                }
                (answered, left)
            })
        });
        let (mut answered, mut left) = (0, 0);
        for place in places.collect::<Vec<_>>() {
            let (a, l) = place.await.expect("no panic");
            (answered, left) = (answered + a, left + l);
        }
        (answered, left)
    };
    flood(CALLERS).await;
    let warm = server.memory_kib("RssAnon");
    let (mut answered, mut left) = (0, 0);
    for _ in 0..FLOODS_MAX {
        let (a, l) = flood(CALLERS).await;
        (answered, left) = (answered + a, left + l);
        if left >= CALLERS {
            break;
        }
    }
    let after = server.memory_kib("RssAnon");
    println!("{answered} were answered, {left} left; RssAnon {warm:?} KiB before, {after:?} KiB after");
    assert!(answered >= CALLERS / 5 && left >= CALLERS, "{answered} were answered, {left} left");
    if let (Some(warm), Some(after)) = (warm, after) {
        // A request takes 1 to 24 KiB; the allocator's caches settle within 1 or 2 MiB.
        assert!(after <= warm + left as u64 / 2, "grew from {warm} to {after} KiB, half a KiB for each that left");
    }
    assert_eq!(numbers(clients[0].encode(ask(24)).await.expect("encodes").into_inner().codes), codes);
    drop(clients);
    assert_eq!(server.terminate(), Some(0), "it waits for nobody");
}
