//! The file that a signature lies in: a Sigstore bundle, of which model signing uses a part.
//! (<https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto>, as JSON)

use super::statement::{PAYLOAD_TYPE, envelope};
use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Longest signature that is read or written, in bytes: some hundred thousand hashes with their names.
pub(super) const MAX_BUNDLE: u64 = 64 << 20;
/// Certificates in one. A path from a leaf to a root has three or four.
const MAX_CERTIFICATES: usize = 16;

/// A signature, and what it is over.
#[derive(Debug, PartialEq)]
pub(super) struct Bundle {
    /// What is signed.
    pub(super) payload: Vec<u8>,
    /// The signature over its envelope.
    pub(super) signature: Vec<u8>,
    /// Whose it says that it is.
    pub(super) material: Material,
}

/// Whose a signature says that it is.
#[derive(Debug, PartialEq)]
pub(super) enum Material {
    /// A key's; its fingerprint, if it is there.
    Key { hint: Option<String> },
    /// A certificate's: that one, then those that lead to a root, in DER.
    Certificates(Vec<Vec<u8>>),
}

/// A file that is no signature that can be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not even JSON of that form.
    #[error("not a signature of a model: expected a Sigstore bundle, which is JSON: {0}")]
    Json(String),
    /// A bundle of another version.
    #[error("expected a bundle of the type {MEDIA_TYPE}, found {0:?}")]
    MediaType(String),
    /// A part that is not there, or is something else.
    #[error("a bundle without what is needed to check it: expected {expected}, found {found}")]
    Unexpected {
        /// What was looked for.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A signature of an identity.
    #[error(
        "signed without a key of the signer's own, by an identity that Sigstore's authority and log vouch for: that can't \
         be checked here. Signatures by a key (--key) and by a certificate (--root) can; the reference implementation \
         checks this one: `pip install model-signing`, `model_signing verify sigstore`"
    )]
    Keyless,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verification_material: Option<WireMaterial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dsse_envelope: Option<WireEnvelope>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<WireKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<WireChain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<WireCertificate>,
    /// None but a keyless signature's has any. The reference writes the empty list.
    #[serde(default, skip_deserializing)]
    tlog_entries: [(); 0],
}

#[derive(Serialize, Deserialize)]
struct WireKey {
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireChain {
    certificates: Vec<WireCertificate>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCertificate {
    raw_bytes: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    sig: String,
    /// Keys are told apart elsewhere.
    #[serde(default, skip_deserializing)]
    keyid: &'static str,
}

impl Bundle {
    /// Reads a bundle. What it holds is not checked against the signature.
    ///
    /// # Errors
    /// When it is none, or of a kind that can't be checked.
    pub(super) fn parse(json: &[u8]) -> Result<Bundle, BundleError> {
        // Before anything else: other versions have other fields.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: String,
        }
        let error = |error: serde_json::Error| BundleError::Json(error.to_string());
        let head: Head = serde_json::from_slice(json).map_err(error)?;
        if head.media_type != MEDIA_TYPE {
            return Err(BundleError::MediaType(head.media_type.chars().take(80).collect()));
        }
        let wire: Wire = serde_json::from_slice(json).map_err(error)?;
        let material = wire.verification_material.unwrap_or_default();
        let material = match (material.public_key, material.x509_certificate_chain, material.certificate) {
            (None, None, Some(_)) => return Err(BundleError::Keyless),
            (Some(key), None, None) => Material::Key { hint: key.hint.filter(|hint| !hint.is_empty()) },
            (None, Some(chain), None) => certificates(&chain)?,
            (None, None, None) => return Err(unexpected("a public key or a chain of certificates", "neither")),
            _ => return Err(unexpected("a public key or a chain of certificates", "several of them")),
        };
        let envelope = wire.dsse_envelope.ok_or_else(|| unexpected("a DSSE envelope", "none"))?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(unexpected("a payload of the type application/vnd.in-toto+json", &envelope.payload_type));
        }
        let [signature] = &envelope.signatures[..] else {
            return Err(unexpected("one signature", &envelope.signatures.len().to_string()));
        };
        Ok(Bundle { payload: base64(&envelope.payload)?, signature: base64(&signature.sig)?, material })
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut material = WireMaterial::default();
        match &self.material {
            Material::Key { hint } => material.public_key = Some(WireKey { hint: hint.clone() }),
            Material::Certificates(chain) => {
                let certificates = chain.iter().map(|der| WireCertificate { raw_bytes: Base64::encode_string(der) });
                material.x509_certificate_chain = Some(WireChain { certificates: certificates.collect() });
            }
        }
        let envelope = WireEnvelope {
            payload: Base64::encode_string(&self.payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![WireSignature { sig: Base64::encode_string(&self.signature), keyid: "" }],
        };
        let wire = Wire {
            media_type: MEDIA_TYPE.into(),
            verification_material: Some(material),
            dsse_envelope: Some(envelope),
        };
        let mut json = serde_json::to_vec(&wire).expect("a bundle is JSON");
        json.push(b'\n');
        json
    }

    /// The bytes that the signature is over.
    pub(super) fn signed(&self) -> Vec<u8> {
        envelope(PAYLOAD_TYPE, &self.payload)
    }
}

fn certificates(chain: &WireChain) -> Result<Material, BundleError> {
    match chain.certificates.len() {
        0 => Err(unexpected("a certificate", "none")),
        n if n > MAX_CERTIFICATES => Err(unexpected("at most 16 certificates", &n.to_string())),
        _ => {
            let chain = chain.certificates.iter().map(|certificate| base64(&certificate.raw_bytes));
            Ok(Material::Certificates(chain.collect::<Result<_, _>>()?))
        }
    }
}

fn base64(text: &str) -> Result<Vec<u8>, BundleError> {
    Base64::decode_vec(text).map_err(|_| unexpected("bytes as Base64", text))
}

fn unexpected(expected: &'static str, found: &str) -> BundleError {
    BundleError::Unexpected { expected, found: found.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn bundle(material: Material) -> Bundle {
        Bundle { payload: b"{}".to_vec(), signature: vec![1, 2, 3], material }
    }

    #[test]
    fn bundles_are_read_as_written() {
        for material in [Material::Key { hint: Some("00ff".into()) }, Material::Certificates(vec![vec![1], vec![2, 3]])]
        {
            let written = bundle(material);
            assert_eq!(Bundle::parse(&written.to_json()).unwrap(), written);
        }
    }

    #[test]
    fn what_others_write() {
        let json: Value = serde_json::from_slice(&bundle(Material::Key { hint: None }).to_json()).unwrap();
        let read = |change: &dyn Fn(&mut Value)| {
            let mut json = json.clone();
            change(&mut json);
            Bundle::parse(&serde_json::to_vec(&json).unwrap()).unwrap()
        };
        let expected = bundle(Material::Key { hint: None });
        assert_eq!(read(&|json| json["verificationMaterial"]["publicKey"] = json!({ "rawBytes": "AA==" })), expected);
        assert_eq!(read(&|json| json["verificationMaterial"]["publicKey"] = json!({ "hint": "" })), expected);
        assert_eq!(read(&|json| json["dsseEnvelope"]["signatures"][0]["keyid"] = json!(null)), expected);
        assert_eq!(read(&|json| json["verificationMaterial"]["tlogEntries"] = json!([{ "logIndex": "1" }])), expected);
    }

    #[test]
    fn what_is_refused() {
        let json: Value = serde_json::from_slice(&bundle(Material::Key { hint: None }).to_json()).unwrap();
        let refused = |change: &dyn Fn(&mut Value), expected: &str| {
            let mut json = json.clone();
            change(&mut json);
            let error = Bundle::parse(&serde_json::to_vec(&json).unwrap()).unwrap_err().to_string();
            assert!(error.contains(expected), "expected `{expected}`: {error}");
        };
        let other = "application/vnd.dev.sigstore.bundle+json;version=0.1";
        refused(&|json| json["mediaType"] = other.into(), "version=0.1");
        refused(&|json| json["verificationMaterial"] = json!({ "certificate": { "rawBytes": "AA==" } }), "--root");
        refused(&|json| json["verificationMaterial"] = json!({}), "neither");
        refused(
            &|json| json["verificationMaterial"]["x509CertificateChain"] = json!({ "certificates": [] }),
            "several",
        );
        refused(
            &|json| json["verificationMaterial"] = json!({ "x509CertificateChain": { "certificates": [] } }),
            "none",
        );
        let many = vec![json!({ "rawBytes": "AA==" }); 17];
        refused(
            &|json| json["verificationMaterial"] = json!({ "x509CertificateChain": { "certificates": many } }),
            "17",
        );
        refused(&|json| drop(json.as_object_mut().unwrap().remove("dsseEnvelope")), "a DSSE envelope, found none");
        refused(&|json| json["dsseEnvelope"]["payloadType"] = "application/octet-stream".into(), "octet-stream");
        refused(&|json| json["dsseEnvelope"]["signatures"] = json!([]), "one signature, found 0");
        refused(&|json| json["dsseEnvelope"]["signatures"] = json!([{ "sig": "" }, { "sig": "" }]), "found 2");
        refused(&|json| json["dsseEnvelope"]["payload"] = "e30".into(), "Base64");
        for text in ["", "[]", "{", "null", "\u{feff}{}"] {
            assert!(matches!(Bundle::parse(text.as_bytes()), Err(BundleError::Json(_))), "{text}");
        }
        let twice = String::from_utf8(bundle(Material::Key { hint: None }).to_json()).unwrap();
        let twice = twice.replacen('{', "{\"dsseEnvelope\":null,", 1);
        assert!(matches!(Bundle::parse(twice.as_bytes()), Err(BundleError::Json(_))));
    }

    proptest! {
        #[test]
        fn anything_is_read(at in 0usize..500, byte in any::<u8>()) {
            let mut json = bundle(Material::Certificates(vec![vec![1], vec![2, 3]])).to_json();
            let at = at % json.len();
            json[at] = byte;
            let _ = Bundle::parse(&json);
            let _ = Bundle::parse(&json[at..]);
        }
    }
}
