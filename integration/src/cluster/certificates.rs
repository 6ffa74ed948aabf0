//! The cluster's own certificate authority.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// The certificate.
    pub(super) certificate: PathBuf,
    /// Its private key.
    pub(super) key: PathBuf,
}

/// Signs for the API server and for everybody who comes to it with a certificate. What it signs is
/// valid for as long as a clock can say, so that a test may set its clock.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, whose files are in `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "fairway-lab");
        let key = KeyPair::generate()?;
        fs::write(
            folder.join("ca.crt"),
            params.self_signed(&key)?.pem().as_bytes(),
        )?;
        // Tokens are signed with a key of their own, as kubeadm has it. To check them the API server
        // wants the public half by itself: it finds none in a PKCS #8 file.
        let tokens = KeyPair::generate()?;
        fs::write(folder.join("service-accounts.key"), tokens.serialize_pem())?;
        fs::write(folder.join("service-accounts.pub"), tokens.public_key_pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
        })
    }

    /// Its own certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The key that service accounts' tokens are signed with.
    pub(super) fn token_key(&self) -> PathBuf {
        self.folder.join("service-accounts.key")
    }

    /// The key that they are checked with.
    pub(super) fn token_public_key(&self) -> PathBuf {
        self.folder.join("service-accounts.pub")
    }

    /// For a server that is reached under these names and addresses.
    pub(super) fn server(&self, file: &str, names: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, file);
        self.sign(file, params)
    }

    /// For a client: to the API server the common name is the user, the organization the group.
    pub(super) fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        self.sign(file, params)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let identity = Identity {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        fs::write(
            &identity.certificate,
            params.signed_by(&key, &self.issuer)?.pem(),
        )?;
        fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}
