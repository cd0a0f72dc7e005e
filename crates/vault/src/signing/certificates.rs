//! Certificates: whose key it is, by whom, up to a root that the user trusts.
//!
//! What RFC 5280 (section 6.1) asks of a path is checked, in the part that signers of models need. What is not understood
//! (limits of names and of policies, any other critical extension) makes a certificate useless rather than being passed
//! over. Nothing is asked of anybody: whether a certificate was revoked is not known here.
//!
//! The checks are our own and not those that TLS clients use (`webpki`), because the public test vectors of model signing
//! are by a certificate that says of itself that it is an authority's, which is nothing for TLS.

use super::keys::{KeyError, PublicKey};
use super::pem::{self, PemError};
use crate::digest::{Hex, sha256};
use puna_text::Date;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use sha2::Digest as _;
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{self, Decode, Encode as _, Header, Reader as _, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName};

/// `id-kp-codeSigning`.
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// `rsaEncryption`.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Extensions whose meaning is heeded here, or is none for this: those may be critical.
const UNDERSTOOD: [ObjectIdentifier; 4] =
    [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID];
/// Signatures that are checked before a path is given up. The longest that can be need sixteen.
const MAX_CHECKS: usize = 100;

/// A certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    parsed: x509_cert::Certificate,
}

/// Certificates that are none, or lead to no root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not even PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// No certificate among it.
    #[error("expected a certificate, `-----BEGIN CERTIFICATE-----`, found other blocks only")]
    None,
    /// Bytes that are none.
    #[error("not a certificate: {0}")]
    Der(String),
    /// A key of it that signs no models.
    #[error("the certificate of {subject}: {error}")]
    Key {
        /// Whose.
        subject: String,
        /// What is wrong with it.
        error: KeyError,
    },
    /// Before or after its time.
    #[error(
        "the certificate of {subject} is valid from {from} to {to}, and not at {at}; if you know from elsewhere when it \
         was signed, name that day: --at DATE"
    )]
    Time {
        /// Whose.
        subject: String,
        /// The first moment.
        from: String,
        /// The last one.
        to: String,
        /// The one that was asked for.
        at: String,
    },
    /// A certificate for something else.
    #[error("the certificate of {subject} is not for signing code: {why}")]
    Usage {
        /// Whose.
        subject: String,
        /// What it lacks.
        why: &'static str,
    },
    /// No path.
    #[error("the certificate of {subject} does not lead to a root that you trust: {why}")]
    Path {
        /// Whose.
        subject: String,
        /// What is wrong with those that there are.
        why: String,
    },
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_der(der: &[u8]) -> Result<Certificate, CertificateError> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|error| CertificateError::Der(error.to_string()))?;
        Ok(Certificate { der: der.to_vec(), parsed })
    }

    /// Reads the certificates of a PEM text, in their order.
    ///
    /// # Errors
    /// When there is none, or one is broken.
    pub fn from_pem(text: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
        let blocks = pem::blocks(text)?;
        let certificates = blocks.iter().filter(|block| block.label == "CERTIFICATE");
        let certificates =
            certificates.map(|block| Certificate::from_der(&block.der)).collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() { Err(CertificateError::None) } else { Ok(certificates) }
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whose key it is: `CN=Somebody,O=Somewhere`.
    #[must_use]
    pub fn subject(&self) -> String {
        name(self.parsed.tbs_certificate().subject())
    }

    /// Who says so.
    #[must_use]
    pub fn issuer(&self) -> String {
        name(self.parsed.tbs_certificate().issuer())
    }

    /// Its SHA-256, by which certificates are known.
    #[must_use]
    pub fn fingerprint(&self) -> Hex<32> {
        sha256(&self.der)
    }

    /// Its first and its last moment, in milliseconds since 1970.
    #[must_use]
    pub fn valid(&self) -> (i64, i64) {
        let validity = self.parsed.tbs_certificate().validity();
        let millis = |time: x509_cert::time::Time| {
            i64::try_from(time.to_unix_duration().as_millis()).expect("certificates end before the year 10000")
        };
        (millis(validity.not_before), millis(validity.not_after))
    }

    /// The key.
    ///
    /// # Errors
    /// When it is none that signs models.
    pub fn key(&self) -> Result<PublicKey, CertificateError> {
        let error = |error| CertificateError::Key { subject: self.subject(), error };
        let der = self.parsed.tbs_certificate().subject_public_key_info().to_der();
        PublicKey::from_der(&der.map_err(|_| error(KeyError::Curve("public")))?).map_err(error)
    }

    fn check_time(&self, at: i64) -> Result<(), CertificateError> {
        let (from, to) = self.valid();
        if (from..=to).contains(&at) {
            return Ok(());
        }
        let [from, to, at] = [from, to, at].map(Date::timestamp);
        Err(CertificateError::Time { subject: self.subject(), from, to, at })
    }

    /// One of its extensions; `None` if it has none of the kind.
    fn extension<T>(&self) -> Result<Option<T>, CertificateError>
    where
        T: for<'a> Decode<'a, Error = der::Error> + AssociatedOid,
    {
        let found = self.parsed.tbs_certificate().get_extension::<T>();
        found
            .map(|found| found.map(|(_, extension)| extension))
            .map_err(|error| CertificateError::Der(error.to_string()))
    }

    /// Whether it is for what it is used for here. (The reference asks for one of the two extensions; where one is
    /// there and says otherwise, RFC 5280 is against it.)
    fn check_usage(&self) -> Result<(), CertificateError> {
        let error = |why| CertificateError::Usage { subject: self.subject(), why };
        let key_usage = self.extension::<KeyUsage>()?;
        let extended = self.extension::<ExtendedKeyUsage>()?;
        match (&key_usage, &extended) {
            (None, None) => Err(error("it has neither a key usage nor an extended key usage")),
            (Some(usage), _) if !usage.digital_signature() => Err(error("its key usage has no digital signature")),
            (_, Some(extended)) if !extended.0.contains(&CODE_SIGNING) => {
                Err(error("its extended key usage has no code signing"))
            }
            _ => Ok(()),
        }
    }

    /// Whether all that it is bound to is understood.
    fn check_extensions(&self) -> Result<(), String> {
        for extension in self.parsed.tbs_certificate().extensions().into_iter().flatten() {
            let is_limit = extension.extn_id == NameConstraints::OID;
            if is_limit || (extension.critical && !UNDERSTOOD.contains(&extension.extn_id)) {
                let id = extension.extn_id;
                return Err(format!(
                    "the certificate of {} is bound to what is not understood here, {id}",
                    self.subject()
                ));
            }
        }
        Ok(())
    }

    /// Whether it may vouch for others, `n_below` authorities away from the one that signed a model.
    fn check_authority(&self, at: i64, n_below: usize) -> Result<(), String> {
        self.check_time(at).map_err(|error| error.to_string())?;
        self.check_extensions()?;
        let constraints = self.extension::<BasicConstraints>().map_err(|error| error.to_string())?;
        let usage = self.extension::<KeyUsage>().map_err(|error| error.to_string())?;
        let extended = self.extension::<ExtendedKeyUsage>().map_err(|error| error.to_string())?;
        let limit = constraints.as_ref().and_then(|constraints| constraints.path_len_constraint).map(usize::from);
        let why = if !constraints.is_some_and(|constraints| constraints.ca) {
            "is no authority's"
        } else if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            "is not for signing certificates"
        } else if extended.is_some_and(|extended| !extended.0.contains(&CODE_SIGNING)) {
            "is not for signing code"
        } else if limit.is_some_and(|limit| n_below > limit) {
            "allows fewer authorities below it"
        } else {
            return Ok(());
        };
        Err(format!("the certificate of {} {why}", self.subject()))
    }

    /// Whether the key of another certificate signed this one: on one of the curves with any hash of the SHA-2 family, or
    /// by RSA of 2,048 bits or more.
    fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let algorithm = self.parsed.signature_algorithm();
        let (Some(message), Some(signature)) = (self.signed_part(), self.parsed.signature().as_bytes()) else {
            return false;
        };
        // Written twice, of which only one is signed.
        if algorithm != self.parsed.tbs_certificate().signature() {
            return false;
        }
        let ecdsa = |hash: &[u8]| issuer.key().is_ok_and(|key| key.verifies_hash(hash, signature));
        let rsa = |how: &'static dyn VerificationAlgorithm| {
            let key = issuer.parsed.tbs_certificate().subject_public_key_info();
            let bits =
                Some(&key.subject_public_key).filter(|_| key.algorithm.oid == RSA).and_then(|key| key.as_bytes());
            bits.is_some_and(|key| UnparsedPublicKey::new(how, key).verify(message, signature).is_ok())
        };
        match algorithm.oid.to_string().as_str() {
            "1.2.840.10045.4.3.2" => ecdsa(&sha2::Sha256::digest(message)),
            "1.2.840.10045.4.3.3" => ecdsa(&sha2::Sha384::digest(message)),
            "1.2.840.10045.4.3.4" => ecdsa(&sha2::Sha512::digest(message)),
            "1.2.840.113549.1.1.11" => rsa(&RSA_PKCS1_2048_8192_SHA256),
            "1.2.840.113549.1.1.12" => rsa(&RSA_PKCS1_2048_8192_SHA384),
            "1.2.840.113549.1.1.13" => rsa(&RSA_PKCS1_2048_8192_SHA512),
            _ => false,
        }
    }

    /// The bytes that are signed (`tbsCertificate`), as they came.
    fn signed_part(&self) -> Option<&[u8]> {
        let mut reader = SliceReader::new(&self.der).ok()?;
        Header::decode(&mut reader).ok()?;
        reader.tlv_bytes().ok()
    }
}

fn name(name: &x509_cert::name::Name) -> String {
    const SHOWN: usize = 200;
    let text = name.to_string();
    if text.is_empty() { "nobody".into() } else { text.chars().take(SHOWN).collect() }
}

/// Checks that the first certificate of a chain may sign models, and that it leads to a root, at a moment in milliseconds
/// since 1970. A certificate that is itself among the roots needs nobody to vouch for it.
///
/// # Errors
/// When it may not, or does not.
pub(super) fn check(chain: &[Certificate], roots: &[Certificate], at: i64) -> Result<(), CertificateError> {
    let Some((leaf, between)) = chain.split_first() else { return Err(CertificateError::None) };
    leaf.check_time(at)?;
    leaf.check_usage()?;
    let error = |why| CertificateError::Path { subject: leaf.subject(), why };
    leaf.check_extensions().map_err(error)?;
    if roots.iter().any(|root| root.der == leaf.der) {
        return Ok(());
    }
    let mut search = Search { between, roots, at, n_checks: 0, against: Vec::new() };
    if search.leads_to_root(leaf, &mut Vec::new()) {
        return Ok(());
    }
    if search.against.is_empty() {
        search.against.push("none of the roots, and no certificate that came with it, is its issuer's".into());
    }
    Err(error(search.against.join("; ")))
}

/// The search for a path.
struct Search<'s> {
    between: &'s [Certificate],
    roots: &'s [Certificate],
    at: i64,
    n_checks: usize,
    /// What is against those that could have been on it.
    against: Vec<String>,
}

impl Search<'_> {
    /// Whether a certificate that those at the places `below` lead to leads to a root.
    fn leads_to_root(&mut self, certificate: &Certificate, below: &mut Vec<usize>) -> bool {
        let (between, roots) = (self.between, self.roots);
        if roots.iter().any(|root| self.vouches(root, certificate, below.len())) {
            return true;
        }
        between.iter().enumerate().any(|(idx, issuer)| {
            // Each once, so that there is an end.
            if below.contains(&idx) || !self.vouches(issuer, certificate, below.len()) {
                return false;
            }
            below.push(idx);
            let leads = self.leads_to_root(issuer, below);
            below.pop();
            leads
        })
    }

    fn vouches(&mut self, issuer: &Certificate, certificate: &Certificate, n_below: usize) -> bool {
        if issuer.parsed.tbs_certificate().subject() != certificate.parsed.tbs_certificate().issuer() {
            return false;
        }
        self.n_checks += 1;
        let checked = if self.n_checks > MAX_CHECKS {
            Err("there are too many ways that could lead to a root".into())
        } else if let Err(why) = issuer.check_authority(self.at, n_below) {
            Err(why)
        } else if !certificate.is_signed_by(issuer) {
            let [whose, by] = [certificate, issuer].map(Certificate::subject);
            Err(format!("the certificate of {whose} is not signed by the key of {by}"))
        } else {
            Ok(())
        };
        let vouches = checked.is_ok();
        self.against.extend(checked.err().filter(|why| !self.against.contains(why)));
        vouches
    }
}

/// Certificates for tests.
#[cfg(test)]
pub(super) mod samples {
    use super::super::keys::{PrivateKey, samples};
    use super::*;
    use std::time::Duration;
    use x509_cert::TbsCertificate;
    use x509_cert::builder::profile::BuilderProfile;
    use x509_cert::builder::{CertificateBuilder, Result};
    use x509_cert::der::asn1::UtcTime;
    use x509_cert::ext::pkix::{KeyUsages, name::GeneralName};
    use x509_cert::ext::{Extension, ToExtension};
    use x509_cert::name::Name;
    use x509_cert::serial_number::SerialNumber;
    use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
    use x509_cert::time::Validity;

    /// 28 November 2026.
    pub(crate) const NOW: i64 = 1_795_824_000_000;
    pub(crate) const DAY: i64 = 86_400_000;

    /// What a certificate is to say.
    pub(crate) struct Says {
        pub(crate) subject: &'static str,
        pub(crate) issuer: &'static str,
        pub(crate) from: i64,
        pub(crate) to: i64,
        pub(crate) extensions: Vec<Extension>,
    }

    impl BuilderProfile for Says {
        fn get_issuer(&self, _: &Name) -> Name {
            self.issuer.parse().unwrap()
        }

        fn get_subject(&self) -> Name {
            self.subject.parse().unwrap()
        }

        fn build_extensions(
            &self,
            _: SubjectPublicKeyInfoRef<'_>,
            _: SubjectPublicKeyInfoRef<'_>,
            _: &TbsCertificate,
        ) -> Result<Vec<Extension>> {
            Ok(self.extensions.clone())
        }
    }

    pub(crate) fn issue(says: Says, key: &PrivateKey, issuer: &PrivateKey) -> Certificate {
        let time = |millis: i64| UtcTime::from_unix_duration(Duration::from_millis(millis as u64)).unwrap().into();
        let validity = Validity::new(time(says.from), time(says.to));
        let key = pem::blocks(key.public().to_pem().as_bytes()).unwrap();
        let key = SubjectPublicKeyInfoOwned::from_der(&key[0].der).unwrap();
        let builder = CertificateBuilder::new(says, SerialNumber::from(7u32), validity, key).unwrap();
        Certificate::from_der(&samples::build(issuer, builder)).unwrap()
    }

    fn extension<T>(extension: &T) -> Extension
    where
        for<'a> &'a T: ToExtension<Error = der::Error>,
    {
        extension.to_extension(&"CN=any".parse().unwrap(), &[]).unwrap()
    }

    pub(crate) fn authority(path_len: Option<u8>) -> Vec<Extension> {
        let constraints = BasicConstraints { ca: true, path_len_constraint: path_len };
        vec![extension(&constraints), extension(&KeyUsage(KeyUsages::KeyCertSign.into()))]
    }

    pub(crate) fn usage(usage: KeyUsages) -> Extension {
        extension(&KeyUsage(usage.into()))
    }

    pub(crate) fn extended(oid: ObjectIdentifier) -> Extension {
        extension(&ExtendedKeyUsage(vec![oid]))
    }

    pub(crate) fn signer() -> Vec<Extension> {
        vec![usage(KeyUsages::DigitalSignature), extended(CODE_SIGNING)]
    }

    /// One that nobody understands.
    pub(crate) fn unknown() -> Extension {
        let value = GeneralName::Rfc822Name(der::asn1::Ia5String::new("a").unwrap());
        (ObjectIdentifier::new("1.2.3.4").unwrap(), true, &value).to_extension(&"CN=any".parse().unwrap(), &[]).unwrap()
    }

    /// A root, an authority that it vouches for, and one of whom that does: with their keys on the three curves.
    pub(crate) fn chain() -> ([Certificate; 3], PrivateKey) {
        let keys = [samples::p521(1), samples::p384(2), samples::p256(3)];
        let root = Says {
            subject: "CN=Root",
            issuer: "CN=Root",
            from: NOW - 900 * DAY,
            to: NOW + 900 * DAY,
            extensions: authority(None),
        };
        let between =
            Says { subject: "CN=Between", from: NOW - 90 * DAY, extensions: authority(Some(0)), ..root_like() };
        let leaf = Says { subject: "CN=Somebody", issuer: "CN=Between", extensions: signer(), ..root_like() };
        let [a, b, c] = &keys;
        let certificates = [issue(root, a, a), issue(between, b, a), issue(leaf, c, b)];
        let [_, _, key] = keys;
        (certificates, key)
    }

    pub(crate) fn root_like() -> Says {
        Says { subject: "CN=Root", issuer: "CN=Root", from: NOW - DAY, to: NOW + DAY, extensions: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::samples::{p256, p384, p521};
    use super::samples::{DAY, NOW, Says, authority, chain, extended, issue, root_like, signer, unknown, usage};
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use x509_cert::ext::pkix::KeyUsages;

    #[track_caller]
    fn refused(chain: &[Certificate], roots: &[Certificate], at: i64, expected: &str) {
        let error = check(chain, roots, at).unwrap_err().to_string();
        assert!(error.contains(expected), "expected `{expected}`: {error}");
    }

    #[test]
    fn a_path_to_a_root() {
        let ([root, between, leaf], key) = chain();
        assert_eq!((leaf.subject(), leaf.issuer()), ("CN=Somebody".to_owned(), "CN=Between".to_owned()));
        assert_eq!(leaf.key().unwrap().fingerprint(), key.public().fingerprint());
        let check = |chain: &[&Certificate], roots: &[&Certificate]| {
            let [chain, roots] = [chain, roots].map(|all| all.iter().copied().cloned().collect::<Vec<_>>());
            check(&chain, &roots, NOW)
        };
        check(&[&leaf, &between], &[&root]).unwrap();
        // Whatever else is in the chain, and among the roots.
        check(&[&leaf, &root, &between], &[&leaf_of("CN=Other"), &root]).unwrap();
        // Somebody may trust the one between, too, or the leaf alone.
        check(&[&leaf], &[&between]).unwrap();
        check(&[&leaf], &[&leaf]).unwrap();

        let refused = |chain: &[&Certificate], roots: &[&Certificate], expected: &str| {
            let error = check(chain, roots).unwrap_err().to_string();
            assert!(error.contains(expected), "expected `{expected}`: {error}");
        };
        refused(&[&leaf], &[&root], "its issuer's");
        refused(&[&leaf, &between], &[], "its issuer's");
        refused(&[], &[&root], "expected a certificate");
        // Another root of the same name.
        let other = issue(Says { extensions: authority(None), ..root_like() }, &p521(9), &p521(9));
        refused(&[&leaf, &between], &[&other], "does not lead to a root");
        // The chain's own root says nothing.
        refused(&[&leaf, &between, &root], &[&leaf_of("CN=Other")], "does not lead to a root");
    }

    /// A certificate of its own.
    fn leaf_of(subject: &'static str) -> Certificate {
        issue(Says { subject, issuer: subject, extensions: signer(), ..root_like() }, &p256(8), &p256(8))
    }

    #[test]
    fn times() {
        let ([root, between, leaf], _) = chain();
        let chain = [leaf, between];
        for at in [NOW - DAY, NOW + DAY] {
            check(&chain, std::slice::from_ref(&root), at).unwrap();
        }
        for at in [NOW - DAY - 1000, NOW + DAY + 1000, 0, -1, i64::MAX / 2] {
            refused(&chain, std::slice::from_ref(&root), at, "--at DATE");
        }
        // One between, or the root, whose time is over, vouches for nobody.
        let long =
            |subject, issuer, extensions| Says { subject, issuer, extensions, to: NOW + 5000 * DAY, ..root_like() };
        let old = issue(long("CN=Leaf", "CN=Root", signer()), &p256(3), &p521(1));
        refused(&[old], &[root], NOW + 1000 * DAY, "the certificate of CN=Root is valid from");
        let ([root, between, _], _) = super::samples::chain();
        let old = issue(long("CN=Leaf", "CN=Between", signer()), &p256(3), &p384(2));
        refused(&[old, between], &[root], NOW + 2 * DAY, "the certificate of CN=Between is valid from");
    }

    #[test]
    fn usages() {
        let root = || issue(Says { extensions: authority(Some(0)), ..root_like() }, &p521(1), &p521(1));
        let leaf = |extensions| [issue(Says { subject: "CN=Leaf", extensions, ..root_like() }, &p256(3), &p521(1))];
        const SERVER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
        check(&leaf(vec![usage(KeyUsages::DigitalSignature)]), &[root()], NOW).unwrap();
        check(&leaf(vec![extended(CODE_SIGNING)]), &[root()], NOW).unwrap();
        refused(&leaf(vec![]), &[root()], NOW, "neither");
        refused(&leaf(vec![usage(KeyUsages::KeyAgreement)]), &[root()], NOW, "no digital signature");
        refused(&leaf(vec![usage(KeyUsages::DigitalSignature), extended(SERVER)]), &[root()], NOW, "no code signing");
        refused(&leaf([signer(), vec![unknown()]].concat()), &[root()], NOW, "not understood here");
        // The public test vectors are by one that says that it is an authority's.
        check(&leaf([signer(), authority(None)[..1].to_vec()].concat()), &[root()], NOW).unwrap();
        // An extension twice.
        refused(&leaf([signer(), signer()].concat()), &[root()], NOW, "not a certificate");
        // Who vouches must be an authority, that may.
        let named = |extensions| issue(Says { extensions, ..root_like() }, &p521(1), &p521(1));
        refused(&leaf(signer()), &[named(vec![])], NOW, "is no authority's");
        let mut signs_nothing = authority(None);
        signs_nothing[1] = usage(KeyUsages::DigitalSignature);
        refused(&leaf(signer()), &[named(signs_nothing)], NOW, "is not for signing certificates");
        // No further authority below a root that allows none.
        let between = Says { subject: "CN=Between", extensions: authority(None), ..root_like() };
        let between = issue(between, &p384(2), &p521(1));
        let below = Says { subject: "CN=Leaf", issuer: "CN=Between", extensions: signer(), ..root_like() };
        let below = issue(below, &p256(3), &p384(2));
        refused(&[below, between], &[root()], NOW, "allows fewer authorities");
    }

    /// A root and a leaf as OpenSSL makes them.
    macro_rules! certificates {
        ($name:literal) => {{
            let text = include_str!(concat!("../../tests/certificates/", $name, ".pem"));
            <[Certificate; 2]>::try_from(Certificate::from_pem(text.as_bytes()).unwrap()).unwrap()
        }};
    }

    #[test]
    fn other_signatures() {
        for [root, leaf] in [
            certificates!("p521-sha256"),
            certificates!("p384-sha512"),
            certificates!("p256-sha384"),
            certificates!("rsa-sha256"),
            certificates!("rsa-sha512"),
        ] {
            assert!(leaf.is_signed_by(&root) && root.is_signed_by(&root) && !root.is_signed_by(&leaf));
            check(&[leaf], &[root], NOW + 10 * DAY).unwrap();
        }
        // Too short a key, too old a hash.
        for [root, leaf] in [certificates!("rsa-1024"), certificates!("p256-sha1")] {
            refused(&[leaf], &[root], NOW + 10 * DAY, "is not signed by the key of");
        }
    }

    #[test]
    fn texts() {
        let ([root, between, _], _) = chain();
        let block = |der: &[u8]| {
            use base64ct::Encoding as _;
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                base64ct::Base64::encode_string(der)
            )
        };
        let read = Certificate::from_pem([block(root.der()), block(between.der())].concat().as_bytes()).unwrap();
        assert_eq!(
            read.iter().map(Certificate::fingerprint).collect::<Vec<_>>(),
            [root.fingerprint(), between.fingerprint()]
        );
        let error = Certificate::from_pem(block(b"no").as_bytes()).unwrap_err();
        assert!(matches!(error, CertificateError::Der(_)), "{error}");
        let error = Certificate::from_pem(p256(1).public().to_pem().as_bytes()).unwrap_err();
        assert_eq!(error, CertificateError::None);
    }

    proptest! {
        #[test]
        fn a_changed_certificate_leads_nowhere(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            static CHAIN: LazyLock<[Certificate; 3]> = LazyLock::new(|| chain().0);
            let [root, between, leaf] = &*CHAIN;
            let mut der = leaf.der().to_vec();
            let at = at.index(der.len());
            der[at] ^= 1 << bit;
            if let Ok(changed) = Certificate::from_der(&der) {
                prop_assert!(check(&[changed, between.clone()], std::slice::from_ref(root), NOW).is_err());
            }
        }
    }
}
