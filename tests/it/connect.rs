//! Failed connections: each error names the cause and the remedy.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::support::process::{ServerProcess, halfhitch};
use crate::support::temporary_store;

/// The files of a certificate and its key.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// Certificates of all kinds, in one folder.
struct Certificates {
    folder: TempDir,
    authority: (CertificateParams, KeyPair),
}

fn params(names: &[&str], until_year: i32) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
    params.distinguished_name.push(DnType::CommonName, "of a test");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until_year, 1, 1);
    params
}

impl Certificates {
    fn new() -> Self {
        let mut authority = params(&[], 2100);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let made = Self { folder: temporary_store(), authority: (authority, key) };
        let (authority, key) = &made.authority;
        fs::write(made.at("ca.pem"), authority.self_signed(key).expect("signs").pem()).expect("writes");
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ca(&self) -> String {
        self.at("ca.pem").display().to_string()
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> Pair {
        let pair = Pair { certificate: self.at(&format!("{name}.pem")), key: self.at(&format!("{name}.key")) };
        fs::write(&pair.certificate, certificate).expect("writes");
        fs::write(&pair.key, key.serialize_pem()).expect("writes");
        pair
    }

    fn signed(&self, name: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.authority.0, &self.authority.1);
        let certificate = params.signed_by(&key, &issuer).expect("signs").pem();
        self.write(name, &certificate, &key)
    }

    fn self_signed(&self, name: &str, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signs").pem();
        self.write(name, &certificate, &key)
    }
}

fn serve(store: &Path, pair: &Pair, more: &[&str]) -> ServerProcess {
    let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
    ServerProcess::start_with(store, &[&["--tls-certificate", &certificate, "--tls-key", &key], more].concat())
}

/// Runs `halfhitch health`: whether it succeeded, and its output.
fn health(url: &str, more: &[&str]) -> (bool, String) {
    let output = halfhitch().args(["--server", url]).args(more).arg("health").output().expect("runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[track_caller]
fn check_fails(url: &str, more: &[&str], texts: &[&str]) {
    let (success, said) = health(url, more);
    assert!(!success, "{url} {more:?}: {said}");
    for text in texts {
        assert!(said.contains(text), "{url} {more:?}: {said:?} does not say {text:?}");
    }
    if !texts.iter().any(|text| text.contains("halfhitch serve")) {
        assert!(!said.contains("no server responds"), "{url} {more:?}: there is one: {said}");
    }
}

#[track_caller]
fn check_serves(url: &str, more: &[&str]) {
    let (success, said) = health(url, more);
    assert!(success && said.contains("SERVING"), "{url} {more:?}: {said}");
}

fn https(server: &ServerProcess, host: &str) -> String {
    format!("https://{host}:{}", server.address().port())
}

#[test]
fn ca_signed_certificates_are_trusted_for_their_names() {
    let made = Certificates::new();
    let server = serve(&made.at("store"), &made.signed("server", &params(&["localhost", "127.0.0.1"], 2100)), &[]);
    check_serves(&https(&server, "localhost"), &["--ca", &made.ca()]);
    check_serves(&https(&server, "127.0.0.1"), &["--ca", &made.ca()]);
    // With a TLS option, an address without a scheme uses TLS.
    check_serves(&server.address().to_string(), &["--ca", &made.ca()]);
    check_fails(&https(&server, "localhost"), &[], &["is not from an authority that this system trusts", "--ca FILE"]);
    let other = Certificates::new();
    check_fails(&https(&server, "localhost"), &["--ca", &other.ca()], &["not from an authority in --ca", &other.ca()]);
    let elsewhere =
        serve(&made.at("elsewhere"), &made.signed("names", &params(&["a.example", "b.example"], 2100)), &[]);
    let texts = ["is for", "a.example", "b.example", "not for \"localhost\"", "--server"];
    check_fails(&https(&elsewhere, "localhost"), &["--ca", &made.ca()], &texts);
    let nameless = serve(&made.at("nameless"), &made.signed("nameless", &params(&[], 2100)), &[]);
    check_fails(
        &https(&nameless, "localhost"),
        &["--ca", &made.ca()],
        &["names no host", "subjectAltName=DNS:localhost"],
    );
    let old = serve(&made.at("old"), &made.signed("old", &params(&["localhost"], 2021)), &[]);
    check_fails(&https(&old, "localhost"), &["--ca", &made.ca()], &["expired", "days ago"]);
}

/// A certificate as from `openssl req -x509`: its own authority, or no authority.
#[test]
fn a_self_signed_certificate_is_trusted_if_given_as_ca() {
    let made = Certificates::new();
    for is_ca in [true, false] {
        let name = if is_ca { "ca" } else { "plain" };
        let mut own = params(&["localhost"], 2100);
        own.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        let pair = made.self_signed(&format!("self-{name}"), &own);
        let server = serve(&made.at(name), &pair, &[]);
        let ca = pair.certificate.display().to_string();
        check_serves(&https(&server, "localhost"), &["--ca", &ca]);
        let texts = ["an authority that this system trusts", "the certificate itself"];
        check_fails(&https(&server, "localhost"), &[], &texts);
        check_fails(&https(&server, "localhost"), &["--ca", &made.ca()], &["in --ca", "that certificate"]);
        check_fails(&https(&server, "127.0.0.1"), &["--ca", &ca], &["is for", "localhost", "not for \"127.0.0.1\""]);
    }
    let mut old = params(&["localhost"], 2021);
    old.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pair = made.self_signed("self-old", &old);
    let server = serve(&made.at("old"), &pair, &[]);
    let ca = pair.certificate.display().to_string();
    check_fails(&https(&server, "localhost"), &["--ca", &ca], &["expired"]);
}

#[test]
fn client_certificates_are_required_and_checked() {
    let made = Certificates::new();
    let pair = made.signed("server", &params(&["localhost"], 2100));
    let server = serve(&made.at("store"), &pair, &["--tls-client-ca", &made.ca()]);
    let url = https(&server, "localhost");
    let client = made.signed("client", &params(&["robot"], 2100));
    let stranger = made.self_signed("stranger", &params(&["robot"], 2100));
    let text = |path: &Path| path.display().to_string();
    let with = |certificate: &Path, key: &Path| {
        [
            "--ca".to_owned(),
            made.ca(),
            "--client-certificate".into(),
            text(certificate),
            "--client-key".into(),
            text(key),
        ]
    };
    let args = with(&client.certificate, &client.key);
    check_serves(&url, &args.each_ref().map(String::as_str));
    check_fails(&url, &["--ca", &made.ca()], &["requires a client certificate", "--client-certificate"]);
    let args = with(&stranger.certificate, &stranger.key);
    let args = args.each_ref().map(String::as_str);
    // In TLS 1.3 the server's alert follows the handshake and a reset can discard it: try several times.
    for _ in 0..10 {
        check_fails(&url, &args, &["rejects the client certificate", &text(&stranger.certificate)]);
    }
    let args = with(&client.certificate, &stranger.key);
    check_fails(&url, &args.each_ref().map(String::as_str), &["is not the key of --client-certificate"]);
    let args = with(&client.certificate, &client.certificate);
    check_fails(&url, &args.each_ref().map(String::as_str), &["it has no private key", "PRIVATE KEY"]);
    let args = with(&client.key, &client.key);
    check_fails(&url, &args.each_ref().map(String::as_str), &["it has no certificate", "CERTIFICATE"]);
    check_fails(&url, &["--ca", &made.ca(), "--client-key", &text(&client.key)], &["must be given together"]);
    fs::write(made.at("der"), [0x30, 0x82, 1, 1]).expect("writes");
    check_fails(&url, &["--ca", &text(&made.at("der"))], &["it is DER", "openssl x509"]);
    check_fails(&url, &["--ca", "nowhere.pem"], &["--ca nowhere.pem"]);
}

#[test]
fn a_wrong_scheme_error_names_the_right_url() {
    let made = Certificates::new();
    let encrypted = serve(&made.at("store"), &made.signed("server", &params(&["localhost"], 2100)), &[]);
    let plain = ServerProcess::start(&made.at("plain"));
    let url = encrypted.address().to_string();
    for server in [format!("http://{url}"), url.clone()] {
        check_fails(&server, &[], &["speaks TLS", &format!("https://{url}")]);
    }
    let url = format!("localhost:{}", plain.address().port());
    check_fails(&format!("https://{url}"), &["--ca", &made.ca()], &["speaks without TLS", &format!("http://{url}")]);
    check_serves(&plain.address().to_string(), &[]);
    check_serves(&plain.url(), &[]);
}

#[test]
fn wrong_addresses_and_foreign_servers_are_reported() {
    for wrong in ["ftp://127.0.0.1:1", "grpc://127.0.0.1:1"] {
        check_fails(wrong, &[], &["expected http:// or https://"]);
    }
    for wrong in ["http://", "http://a b:1", "::", ""] {
        check_fails(wrong, &[], &["is not a URL", "http://host:50051"]);
    }
    let unused_port = "http://127.0.0.1:1";
    check_fails(unused_port, &[], &["no server responds at http://127.0.0.1:1", "start one with `halfhitch serve`"]);
    check_fails("127.0.0.1:1", &[], &["no server responds at http://127.0.0.1:1", "start one with `halfhitch serve`"]);
    check_fails("http://no-such-host.invalid:1", &[], &["the host of", "is not found"]);
    // A server that supports only HTTP/1.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let web = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("comes");
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap_or(0);
            if request[..count].starts_with(b"stop") {
                return;
            }
            // Closing with unread bytes often causes a reset that discards the response.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    for _ in 0..10 {
        check_fails(&format!("http://{address}"), &[], &["speaks HTTP/1"]);
    }
    TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"stop")).expect("connects");
    web.join().expect("ends");
}
