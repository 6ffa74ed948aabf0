//! TLS towards endpoints that are checked. The certificate is not looked at, as with HAProxy's `check-ssl verify none`: a
//! check says whether an endpoint works, not who it is, and what it is asked is no secret.

use std::fmt;
use std::sync::Arc;

use fairway_config::net::EndpointAddr;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::Failure;

/// Connects by TLS to whoever is there.
#[derive(Clone)]
pub(super) struct AnyServer(Result<TlsConnector, Failure>);

impl AnyServer {
    pub(super) fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::from(error.to_string()));
        Self(builder.map(|builder| {
            let mut config = builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            // Each probe is to show that a handshake works.
            config.resumption = rustls::client::Resumption::disabled();
            TlsConnector::from(Arc::new(config))
        }))
    }

    /// The handshake. `name` is told to the server (SNI) where it is a name.
    pub(super) async fn connect(
        &self,
        name: &str,
        addr: EndpointAddr,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = self.0.as_ref().map_err(Failure::clone)?;
        let alone = match name.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
            _ => name,
        };
        let server = ServerName::try_from(alone.to_owned())
            .unwrap_or_else(|_| ServerName::IpAddress(addr.0.ip().into()));
        let connected = connector.connect(server, stream).await;
        connected.map_err(|error| format!("no TLS: {error}").into())
    }
}

/// Takes any certificate.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
