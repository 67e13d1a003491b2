//! Somebody between olbake and the server: who speaks without TLS, who passes everything on, who asks for the password
//! in the open, and who shows the server's own certificate.

use std::fs;
use std::sync::{Arc, Mutex};

use olbake_engine::stack::provider::Provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::cluster::{ADMIN_PASSWORD, Cluster, inputs, object, provider, words};

/// What a client asks with: speak TLS?
const REQUEST: usize = 8;

/// A certificate and a key, whether they belong together or not.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn acceptor(certificate: &std::path::Path, key: &std::path::Path) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = Shown(Arc::new(CertifiedKey::new(vec![certificate], key)));
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    TlsAcceptor::from(Arc::new(config.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(shown))))
}

/// The certificate and the key of somebody else.
fn own(cluster: &Cluster) -> [std::path::PathBuf; 2] {
    let [certificate, key] = [cluster.path("own.crt"), cluster.path("own.key")];
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=machine", "-days", "2"]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().unwrap();
    assert!(made.status.success());
    [certificate, key]
}

/// What the one between saw in the open.
type Heard = Arc<Mutex<Vec<u8>>>;

enum Between {
    /// Says that it has no TLS, and passes on what comes.
    Plain,
    /// Ends TLS, and passes on what comes by a TLS of its own.
    Relay(TlsAcceptor),
    /// Ends TLS, and asks for the password itself.
    Asks(TlsAcceptor),
}

async fn talk(between: &Between, mut client: TcpStream, port: u16, heard: &Heard) -> std::io::Result<()> {
    let mut request = [0; REQUEST];
    client.read_exact(&mut request).await?;
    match between {
        Between::Plain => {
            client.write_all(b"N").await?;
            let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Between::Relay(acceptor) => {
            client.write_all(b"S").await?;
            let mut client = acceptor.accept(client).await?;
            let mut server = to_server(port, &request).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Between::Asks(acceptor) => {
            client.write_all(b"S").await?;
            let mut client = acceptor.accept(client).await?;
            ask(&mut client, heard).await
        }
    }
}

/// Reads the client's greeting, asks for the password in the open, and listens.
async fn ask(client: &mut (impl AsyncRead + AsyncWrite + Unpin), heard: &Heard) -> std::io::Result<()> {
    let length = client.read_u32().await?;
    let mut greeting = vec![0; length as usize - 4];
    client.read_exact(&mut greeting).await?;
    client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await?;
    let mut answer = Vec::new();
    let end = client.read_to_end(&mut answer).await;
    heard.lock().unwrap().extend([greeting, answer].concat());
    end.map(drop)
}

async fn to_server(port: u16, request: &[u8]) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(request).await?;
    assert_eq!(server.read_u8().await?, b'S');
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let trusts = rustls::ClientConfig::builder_with_provider(crypto.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(crypto)))
        .with_no_client_auth();
    let name = "machine".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(trusts)).connect(name, server).await
}

/// The one between does not care who the server is.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The error of a role that is made through somebody, and what that one heard.
async fn through(cluster: &Cluster, between: Between) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Heard::default());
    let standing = tokio::spawn({
        let (heard, server) = (heard.clone(), cluster.port);
        async move {
            let (client, _) = listener.accept().await.unwrap();
            // The client hangs up on it: that is what is wanted.
            drop(talk(&between, client, server, &heard).await);
        }
    });
    let role = json!({"name": "x", "login": false, "password": null, "member_of": []});
    let patience = std::time::Duration::ZERO;
    let provider = olbake_postgresql::PostgreSql::with_patience(patience);
    let result = provider.create(&object("role", "x"), &inputs(&cluster.server_at(port), &role)).await;
    standing.await.unwrap();
    let error = words(&result.expect_err("nobody may stand between"));
    assert!(!error.contains(ADMIN_PASSWORD));
    let heard = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    (error, heard)
}

#[tokio::test]
async fn nobody_stands_between() {
    let Some(cluster) = Cluster::start() else { return };
    let role = json!({"name": "y", "login": false, "password": null, "member_of": []});
    // To the server itself it works.
    provider().create(&object("role", "y"), &inputs(&cluster.server(), &role)).await.unwrap();
    let [certificate, key] = own(&cluster);

    let (error, _) = through(&cluster, Between::Plain).await;
    assert!(error.contains("TLS"), "{error}");

    let (error, _) = through(&cluster, Between::Relay(acceptor(&certificate, &key))).await;
    assert!(error.contains("channel binding"), "{error}");

    let (error, heard) = through(&cluster, Between::Asks(acceptor(&certificate, &key))).await;
    assert!(error.contains("channel binding"), "{error}");
    assert!(heard.contains("olbake") && !heard.contains(ADMIN_PASSWORD), "{heard:?}");

    let servers = cluster.path("data/server.crt");
    let (error, _) = through(&cluster, Between::Relay(acceptor(&servers, &key))).await;
    assert!(error.contains("signature") || error.contains("BadSignature"), "{error}");
    assert!(!fs::read_to_string(cluster.path("log")).unwrap().contains("CREATE ROLE \"x\""));
}
