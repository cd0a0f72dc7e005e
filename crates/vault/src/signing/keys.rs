//! Keys: elliptic curves of NIST, with the hash that belongs to each (P-256 and SHA-256, P-384 and SHA-384, P-521 and
//! SHA-512), as the specification of model signing asks for.

use super::pem::{self, PemError};
use crate::digest::{Hex, sha256};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};

/// One of three curves, whose keys are types of their own.
#[derive(Clone, PartialEq)]
enum Of<A, B, C> {
    P256(A),
    P384(B),
    P521(C),
}

/// The same for each curve.
macro_rules! each {
    ($of:expr, $key:ident => $then:expr) => {
        match $of {
            Of::P256($key) => $then,
            Of::P384($key) => $then,
            Of::P521($key) => $then,
        }
    };
}

/// A key that signs.
pub struct PrivateKey(Of<p256::ecdsa::SigningKey, p384::ecdsa::SigningKey, p521::ecdsa::SigningKey>);

/// A key by which signatures are checked.
#[derive(Clone, PartialEq)]
pub struct PublicKey(Of<p256::ecdsa::VerifyingKey, p384::ecdsa::VerifyingKey, p521::ecdsa::VerifyingKey>);

/// What is no key that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not even PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// An encrypted key.
    #[error(
        "the key is encrypted; decrypt it first, into a file that nobody else can read: `openssl pkey -in FILE -out PLAIN`"
    )]
    Encrypted,
    /// Something else in PEM.
    #[error("expected {expected}, found {found}")]
    Label {
        /// The block that was looked for.
        expected: &'static str,
        /// The blocks that are there.
        found: String,
    },
    /// Another kind of key, or a broken one.
    #[error(
        "expected a {0} key on one of the curves P-256, P-384 and P-521; it is on another, of another kind, or broken"
    )]
    Curve(&'static str),
    /// No random bits.
    #[error("the system gives no random bits to make a key of: {0}")]
    Random(String),
}

impl PrivateKey {
    /// A new key on P-256, from random bits of the system.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn generate() -> Result<PrivateKey, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        loop {
            getrandom::fill(&mut bytes[..]).map_err(|error| KeyError::Random(error.to_string()))?;
            // One in 2³² is above the curve's order.
            if let Ok(key) = p256::SecretKey::from_slice(&bytes[..]) {
                return Ok(PrivateKey(Of::P256(key.into())));
            }
        }
    }

    /// Reads a key from PEM: `PRIVATE KEY` (PKCS#8) or `EC PRIVATE KEY` (SEC 1), not encrypted.
    ///
    /// # Errors
    /// When there is none, or it is none of the three curves'.
    pub fn from_pem(text: &[u8]) -> Result<PrivateKey, KeyError> {
        let blocks = pem::blocks(text)?;
        if blocks.iter().any(|block| block.label == "ENCRYPTED PRIVATE KEY") {
            return Err(KeyError::Encrypted);
        }
        // `openssl ecparam` writes the curve into a block of its own before.
        let block = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY"));
        let block = block.ok_or_else(|| wrong_label("a private key", &blocks))?;
        let der = &block.der[..];
        let key = if block.label == "EC PRIVATE KEY" {
            p256::SecretKey::from_sec1_der(der)
                .ok()
                .map(|key| Of::P256(key.into()))
                .or_else(|| p384::SecretKey::from_sec1_der(der).ok().map(|key| Of::P384(key.into())))
                .or_else(|| p521::SecretKey::from_sec1_der(der).ok().map(|key| Of::P521(key.into())))
        } else {
            p256::ecdsa::SigningKey::from_pkcs8_der(der)
                .ok()
                .map(Of::P256)
                .or_else(|| p384::ecdsa::SigningKey::from_pkcs8_der(der).ok().map(Of::P384))
                .or_else(|| p521::ecdsa::SigningKey::from_pkcs8_der(der).ok().map(Of::P521))
        };
        key.map(PrivateKey).ok_or(KeyError::Curve("private"))
    }

    /// The key in PEM, as PKCS#8.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        each!(&self.0, key => key.to_pkcs8_pem(LineEnding::LF)).expect("a key can be written")
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(match &self.0 {
            Of::P256(key) => Of::P256(*key.verifying_key()),
            Of::P384(key) => Of::P384(*key.verifying_key()),
            Of::P521(key) => Of::P521(*key.verifying_key()),
        })
    }

    /// Signs with ECDSA, deterministically (RFC 6979). The signature is in DER.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Of::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            Of::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            Of::P521(key) => {
                let signature: p521::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
        }
    }
}

impl PublicKey {
    /// Reads a key from PEM, `PUBLIC KEY`.
    ///
    /// # Errors
    /// When there is none, or it is none of the three curves'.
    pub fn from_pem(text: &[u8]) -> Result<PublicKey, KeyError> {
        let blocks = pem::blocks(text)?;
        let block = blocks.iter().find(|block| block.label == "PUBLIC KEY");
        PublicKey::from_der(&block.ok_or_else(|| wrong_label("a public key", &blocks))?.der)
    }

    /// Reads a key as certificates have it (`SubjectPublicKeyInfo`, RFC 5280).
    ///
    /// # Errors
    /// When it is none of the three curves'.
    pub fn from_der(der: &[u8]) -> Result<PublicKey, KeyError> {
        p256::ecdsa::VerifyingKey::from_public_key_der(der)
            .ok()
            .map(Of::P256)
            .or_else(|| p384::ecdsa::VerifyingKey::from_public_key_der(der).ok().map(Of::P384))
            .or_else(|| p521::ecdsa::VerifyingKey::from_public_key_der(der).ok().map(Of::P521))
            .map(PublicKey)
            .ok_or(KeyError::Curve("public"))
    }

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        each!(&self.0, key => key.to_public_key_pem(LineEnding::LF)).expect("a key can be written")
    }

    /// What tells keys apart: the SHA-256 of [`PublicKey::to_pem`], which signatures have as the `hint`.
    #[must_use]
    pub fn fingerprint(&self) -> Hex<32> {
        sha256(self.to_pem().as_bytes())
    }

    /// Whether this is a signature of this key over a message.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let checked = match &self.0 {
            Of::P256(key) => p256::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify(message, &s)),
            Of::P384(key) => p384::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify(message, &s)),
            Of::P521(key) => p521::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify(message, &s)),
        };
        checked.is_ok()
    }

    /// Whether this is a signature of this key over a message of this hash, which may be of any of the three lengths.
    pub(super) fn verifies_hash(&self, hash: &[u8], signature: &[u8]) -> bool {
        let checked = match &self.0 {
            Of::P256(key) => {
                p256::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify_prehash(hash, &s))
            }
            Of::P384(key) => {
                p384::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify_prehash(hash, &s))
            }
            Of::P521(key) => {
                p521::ecdsa::DerSignature::from_bytes(signature).and_then(|s| key.verify_prehash(hash, &s))
            }
        };
        checked.is_ok()
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

fn wrong_label(expected: &'static str, blocks: &[pem::Block]) -> KeyError {
    const SHOWN: usize = 4;
    let found: Vec<String> = blocks.iter().take(SHOWN).map(|block| block.label.chars().take(40).collect()).collect();
    KeyError::Label { expected, found: found.join(", ") }
}

/// Keys for tests: the same ones each time.
#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use x509_cert::builder::profile::BuilderProfile;
    use x509_cert::builder::{Builder as _, CertificateBuilder};
    use x509_cert::der::Encode as _;

    pub(crate) fn p256(seed: u8) -> PrivateKey {
        PrivateKey(Of::P256(p256::SecretKey::from_slice(&[seed; 32]).unwrap().into()))
    }

    pub(crate) fn p384(seed: u8) -> PrivateKey {
        PrivateKey(Of::P384(p384::SecretKey::from_slice(&[seed; 48]).unwrap().into()))
    }

    pub(crate) fn p521(seed: u8) -> PrivateKey {
        PrivateKey(Of::P521(p521::SecretKey::from_slice(&[[0].as_slice(), &[seed; 65]].concat()).unwrap().into()))
    }

    /// A certificate by this key.
    pub(crate) fn build<P: BuilderProfile>(key: &PrivateKey, builder: CertificateBuilder<P>) -> Vec<u8> {
        let certificate = match &key.0 {
            Of::P256(key) => builder.build::<_, p256::ecdsa::DerSignature>(key),
            Of::P384(key) => builder.build::<_, p384::ecdsa::DerSignature>(key),
            Of::P521(key) => builder.build::<_, p521::ecdsa::DerSignature>(key),
        };
        certificate.unwrap().to_der().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    #[test]
    fn each_curve_signs_and_verifies() {
        for key in [samples::p256(7), samples::p384(7), samples::p521(7)] {
            let public = key.public();
            let signature = key.sign(b"message");
            assert!(public.verifies(b"message", &signature));
            assert!(!public.verifies(b"massage", &signature));
            let mut other = signature.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(!public.verifies(b"message", &other));
            assert!(!public.verifies(b"message", &signature[1..]) && !public.verifies(b"message", b""));

            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(again.sign(b"message"), signature);
            let again = PublicKey::from_pem(public.to_pem().as_bytes()).unwrap();
            assert_eq!(again.fingerprint(), public.fingerprint());
            assert!(again == public);
        }
        let keys = [samples::p256(7), samples::p256(8), samples::p384(7), samples::p521(7)];
        let signature = keys[0].sign(b"message");
        assert_eq!(keys.map(|key| key.public().verifies(b"message", &signature)), [true, false, false, false]);
    }

    #[test]
    fn new_keys_differ() {
        let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        assert_ne!(a.public().fingerprint(), b.public().fingerprint());
        assert!(a.public().verifies(b"a", &a.sign(b"a")));
    }

    #[test]
    fn what_is_no_key() {
        let private = samples::p256(1);
        let error = |text: &str| PrivateKey::from_pem(text.as_bytes()).err().unwrap().to_string();
        assert!(error(&private.public().to_pem()).contains("expected a private key, found PUBLIC KEY"));
        assert!(
            error("-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----").contains("openssl")
        );
        assert!(error("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").contains("P-384"));
        assert!(error("hello").contains("PEM"));
        let error = PublicKey::from_pem(private.to_pem().as_bytes()).err().unwrap().to_string();
        assert!(error.contains("expected a public key, found PRIVATE KEY"), "{error}");
    }

    proptest! {
        #[test]
        fn anything_is_read(der in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200, bit in 0u8..8) {
            let _ = PublicKey::from_der(&der);
            // The work is in the arithmetic, and the same for each case.
            static KEY: LazyLock<(PublicKey, Vec<u8>)> = LazyLock::new(|| {
                let key = samples::p384(3);
                (key.public(), key.sign(b"message"))
            });
            let (key, signature) = &*KEY;
            prop_assert!(!key.verifies(b"message", &der));
            // One bit of a signature makes it another, or none.
            let mut signature = signature.clone();
            let at = at % signature.len();
            signature[at] ^= 1 << bit;
            prop_assert!(!key.verifies(b"message", &signature));
        }
    }
}
