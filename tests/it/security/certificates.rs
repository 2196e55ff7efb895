//! Certificates of clients and of the server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use halfhitch::server::{SecurityConfig, TlsConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{Asking, ROLES, UNAUTHENTICATED, asked, encode, of_role, prepared, start};
use crate::support::TestServer;
use crate::support::eventually::eventually;

/// A certificate authority.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its key, in PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Self { params, key: KeyPair::generate().expect("a key") }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).expect("signs").pem()
    }

    fn sign(&self, name: &str, serial: u64, until_year: i32) -> Signed {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("signs").pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        list.signed_by(&issuer).expect("signs").pem().expect("PEM")
    }
}

fn tls_files(folder: &Path, authority: &Authority) -> TlsConfig {
    let signed = authority.sign("localhost", 1, 2100);
    let at = |name: &str| folder.join(name);
    fs::write(at("cert.pem"), signed.certificate).expect("writes");
    fs::write(at("key.pem"), signed.key).expect("writes");
    TlsConfig {
        certificate: at("cert.pem"),
        key: at("key.pem"),
        client_ca: None,
        client_crl: None,
        client_optional: false,
    }
}

async fn connect(server: &TestServer, authority: &Authority, client: Option<&Signed>) -> Result<Channel, String> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost");
    if let Some(Signed { certificate, key }) = client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address())).expect("a URL");
    let channel = endpoint.tls_config(tls).expect("settings").connect().await;
    channel.map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_valid_listed_client_certificates_are_accepted() {
    let authority = Authority::new();
    let credentials = "[[certificate]]\nname = \"robot\"\ndns = \"robot.example\"\nroles = [\"infer\"]\n";
    let (folder, path) = prepared(credentials).await;
    let mut tls = tls_files(folder.path(), &authority);
    let at = |name: &str| folder.path().join(name);
    fs::write(at("ca.pem"), authority.pem()).expect("writes");
    fs::write(at("crl.pem"), authority.revoke(&[99])).expect("writes");
    (tls.client_ca, tls.client_crl) = (Some(at("ca.pem")), Some(at("crl.pem")));
    let config = SecurityConfig { credentials: Some(path), tls: Some(tls), ..Default::default() };
    let server = start(folder.path(), config).await;
    let ask = async |client: Option<&Signed>| match connect(&server, &authority, client).await {
        Ok(channel) => encode(&channel, None, "open-a").await.map_or_else(|status| status.code(), |()| Code::Ok),
        Err(_) => Code::Unavailable,
    };
    assert_eq!(ask(Some(&authority.sign("robot.example", 7, 2100))).await, Code::Ok);
    let stranger = authority.sign("stranger.example", 8, 2100);
    assert_eq!(ask(Some(&stranger)).await, Code::Unauthenticated, "signed, and in no entry");
    for (what, client) in [
        ("revoked", Some(authority.sign("robot.example", 99, 2100))),
        ("expired", Some(authority.sign("robot.example", 10, 2021))),
        ("of another authority", Some(Authority::new().sign("robot.example", 11, 2100))),
        ("missing", None),
    ] {
        let code = ask(client.as_ref()).await;
        assert!(!matches!(code, Code::Ok | Code::Unauthenticated), "{what}: {code:?}: the handshake itself fails");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_certificate_ends_its_streams_and_calls() {
    let authority = Authority::new();
    let (folder, _) = prepared("").await;
    let at = |name: &str| folder.path().join(name);
    let mut tls = tls_files(folder.path(), &authority);
    fs::write(at("ca.pem"), authority.pem()).expect("writes");
    fs::write(at("crl.pem"), authority.revoke(&[99])).expect("writes");
    (tls.client_ca, tls.client_crl) = (Some(at("ca.pem")), Some(at("crl.pem")));
    let server = start(folder.path(), SecurityConfig { tls: Some(tls), ..Default::default() }).await;
    let one = connect(&server, &authority, Some(&authority.sign("one.example", 7, 2100))).await.expect("connects");
    let other = connect(&server, &authority, Some(&authority.sign("other.example", 8, 2100))).await.expect("connects");
    let (mut of_one, mut of_other) = (Asking::begin(&one, None).await, Asking::begin(&other, None).await);
    fs::write(at("crl.pem"), authority.revoke(&[99, 7])).expect("writes");
    assert_eq!(of_one.until_ended().await, Code::Unauthenticated);
    assert_eq!(encode(&one, None, "open-a").await.expect_err("revoked").code(), Code::Unauthenticated);
    encode(&other, None, "open-a").await.expect("it is not revoked");
    assert_eq!(of_other.ask().await, Code::Ok);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_valid_certificates_of_the_right_role_are_accepted() {
    const LISTED: u64 = 1000;
    let authority = Authority::new();
    let one = |role: &str, state: &str, more: &str| {
        let name = format!("{role}-{state}");
        format!("[[certificate]]\nname = \"{name}\"\ndns = \"{name}.example\"\nroles = [\"{role}\"]{more}\n")
    };
    let stays: String =
        ROLES.iter().map(|role| one(role, "good", "") + &one(role, "old", "\nexpires = 2020-01-01")).collect();
    let goes: String = ROLES.iter().map(|role| one(role, "revoked", "")).collect();
    let (folder, path) = prepared(&format!("{stays}{goes}")).await;
    let at = |name: &str| folder.path().join(name);
    let mut tls = tls_files(folder.path(), &authority);
    fs::write(at("ca.pem"), authority.pem()).expect("writes");
    fs::write(at("crl.pem"), authority.revoke(&[LISTED, LISTED + 1, LISTED + 2])).expect("writes");
    (tls.client_ca, tls.client_crl, tls.client_optional) = (Some(at("ca.pem")), Some(at("crl.pem")), true);
    let config = SecurityConfig { credentials: Some(path.clone()), tls: Some(tls), ..Default::default() };
    let server = start(folder.path(), config).await;
    let missing = connect(&server, &authority, None).await.expect("one may come without");
    assert_eq!(asked(&missing, None).await, UNAUTHENTICATED);
    let mut open = Vec::new();
    for (serial, role) in (10..).step_by(10).zip(ROLES) {
        for (serial, state) in (serial..).zip(["good", "revoked", "old", "wrong"]) {
            let name = format!("{role}-{state}.example");
            let channel = connect(&server, &authority, Some(&authority.sign(&name, serial, 2100))).await.expect(&name);
            let expected = if ["good", "revoked"].contains(&state) { of_role(role) } else { UNAUTHENTICATED };
            assert_eq!(asked(&channel, None).await, expected, "{name}");
            open.push((role, state, channel));
        }
    }
    for (serial, role) in (LISTED..).zip(ROLES) {
        let name = format!("{role}-good.example");
        for (what, signed) in [
            ("listed as revoked", authority.sign(&name, serial, 2100)),
            ("expired", authority.sign(&name, serial + 100, 2021)),
            ("of another authority", Authority::new().sign(&name, serial + 200, 2100)),
        ] {
            // The handshake fails, either on connect or on the first call.
            let codes = match connect(&server, &authority, Some(&signed)).await {
                Ok(channel) => asked(&channel, None).await,
                Err(_) => [Code::Unavailable; 3],
            };
            let fails = |code: &Code| !matches!(code, Code::Ok | Code::PermissionDenied | Code::Unauthenticated);
            assert!(codes.iter().all(fails), "{role}, {what}: {codes:?}");
        }
    }
    fs::write(&path, stays).expect("writes");
    for (role, state, channel) in open {
        if state == "revoked" {
            eventually(&format!("{role} without its entry is refused"), async || match asked(&channel, None).await {
                UNAUTHENTICATED => Ok(()),
                codes => Err(codes),
            })
            .await;
        } else if state == "good" {
            assert_eq!(asked(&channel, None).await, of_role(role), "{role}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_swapped_under_load_and_no_request_fails() {
    let (old, new) = (Authority::new(), Authority::new());
    let (folder, _) = prepared("").await;
    let tls = tls_files(folder.path(), &old);
    let server = start(folder.path(), SecurityConfig { tls: Some(tls), ..Default::default() }).await;
    let channel = connect(&server, &old, None).await.expect("the old certificate");
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let mut count = 0;
        while !*stopped.borrow_and_update() {
            encode(&channel, None, "open-a").await.expect("no request fails");
            count += 1;
        }
        count
    });
    // A certificate that does not match the key is rejected; the old pair stays.
    let other = new.sign("localhost", 2, 2100);
    fs::write(folder.path().join("cert.pem"), other.certificate).expect("writes");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    connect(&server, &old, None).await.expect("the old pair stays in force");
    fs::write(folder.path().join("key.pem"), other.key).expect("writes");
    eventually("new connections see the new certificate", async || connect(&server, &new, None).await).await;
    connect(&server, &old, None).await.expect_err("and not the old one");
    stop.send(true).expect("runs");
    assert!(load.await.expect("no request failed") > 10);
    server.stop().await;
}
