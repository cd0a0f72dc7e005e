//! A card as SPDX 3.0.1, in JSON-LD: an `AIPackage` with its licence (<https://spdx.github.io/spdx-spec/v3.0.1/>).

use super::{Card, Facts};
use serde_json::{Map, Value, json};

const CREATION: &str = "_:creation";

impl Card {
    /// The card as an SPDX document that was made at `created`: `2026-11-28T20:16:00Z`. What the format wants and nobody
    /// knows is left out, and listed in the document's comment.
    #[must_use]
    pub fn to_spdx(&self, created: &str) -> Value {
        // Every id is unique in the document, and the same for the same card.
        let namespace = format!("https://spdx.org/spdxdocs/puna-{}", self.identity());
        let id = |part: &str| format!("{namespace}#{part}");
        let element = |kind: &str, part: &str, rest: Value| {
            let mut element = Map::new();
            element.insert("type".into(), kind.into());
            element.insert("spdxId".into(), id(part).into());
            element.insert("creationInfo".into(), CREATION.into());
            if let Value::Object(rest) = rest {
                element.extend(rest.into_iter().filter(|(_, value)| !value.is_null()));
            }
            Value::Object(element)
        };
        let vendor = self.about.vendor.as_ref();
        let released = self.about.released.as_ref().map(|day| format!("{day}T00:00:00Z"));
        let known = [
            ("releaseTime", released.is_some()),
            ("suppliedBy", vendor.is_some()),
            ("downloadLocation", self.about.home.is_some()),
            ("packageVersion", self.facts.revision.is_some()),
        ];
        let missing: Vec<&str> = known.into_iter().filter(|(_, known)| !known).map(|(name, _)| name).collect();
        let comment = match missing[..] {
            [] => format!("{}. Assessed by rule as of {}.", self.called, self.as_of),
            _ => format!("{}. Assessed by rule as of {}. Not known: {}.", self.called, self.as_of, missing.join(", ")),
        };
        let mut graph = vec![
            json!({
                "type": "CreationInfo",
                "@id": CREATION,
                "specVersion": "3.0.1",
                "created": created,
                "createdBy": [id("puna")],
            }),
            element("SoftwareAgent", "puna", json!({ "name": "puna" })),
            element(
                "SpdxDocument",
                "document",
                json!({
                    "name": format!("Openness card of {}", self.model),
                    "comment": comment,
                    "profileConformance": ["core", "software", "ai", "simpleLicensing"],
                    "rootElement": [id("model")],
                }),
            ),
        ];
        if let Some(vendor) = vendor {
            graph.push(element("Organization", "vendor", json!({ "name": vendor })));
        }
        graph.push(element("ai_AIPackage", "model", self.package(released, vendor.map(|_| id("vendor")))));
        // A model without a known licence says so, rather than nothing.
        let licence = match self.licence.as_deref() {
            Some(licence) => {
                let name = self.licence_known().map(|licence| licence.name.as_str());
                let expression =
                    if is_expression(licence) { licence.to_owned() } else { format!("LicenseRef-{licence}") };
                let rest = json!({ "simplelicensing_licenseExpression": expression, "comment": name });
                graph.push(element("simplelicensing_LicenseExpression", "licence", rest));
                id("licence")
            }
            None => "https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertionLicense".to_owned(),
        };
        for kind in ["hasDeclaredLicense", "hasConcludedLicense"] {
            let rest = json!({ "from": id("model"), "relationshipType": kind, "to": [licence] });
            graph.push(element("Relationship", kind, rest));
        }
        json!({ "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": graph })
    }

    fn package(&self, released: Option<String>, vendor: Option<String>) -> Value {
        let Facts { params, hash_root, revision, .. } = &self.facts;
        let entry = |key: &str, value: &str| json!({ "type": "DictionaryEntry", "key": key, "value": value });
        let hyperparameters = params.map(|n| vec![entry("parameters", &n.to_string())]);
        let claims: Vec<String> =
            self.claims.iter().map(|claim| format!("{}: {} ({})", claim.name, claim.value, claim.source)).collect();
        let training = (!claims.is_empty()).then(|| format!("Claims of the vendor. {}", claims.join("; ")));
        let sensitive = self.about.uses_personal_data.map(|uses| if uses { "yes" } else { "no" });
        json!({
            "name": self.model,
            "summary": self.called,
            "releaseTime": released,
            "suppliedBy": vendor,
            "verifiedUsing": hash_root.map(|hash| {
                vec![json!({ "type": "Hash", "algorithm": "sha256", "hashValue": hash.to_string(),
                    "comment": "of the lines that sha256sum writes of all files, sorted by path" })]
            }),
            "software_packageVersion": revision,
            "software_downloadLocation": self.about.home,
            "software_primaryPurpose": "model",
            "ai_autonomyType": "noAssertion",
            "ai_domain": self.about.task.as_ref().map(|task| vec![task]),
            "ai_hyperparameter": hyperparameters,
            "ai_informationAboutApplication": self.about.task,
            "ai_informationAboutTraining": training,
            "ai_limitation": self.about.limitations,
            "ai_modelDataPreprocessing": self.about.preprocessing.as_ref().map(|text| vec![text]),
            "ai_typeOfModel": self.about.kind.as_ref().map(|kind| vec![kind]),
            "ai_useSensitivePersonalInformation": sensitive.unwrap_or("noAssertion"),
        })
    }

    /// Digits that are the same for the same model.
    pub(super) fn identity(&self) -> String {
        let identity = match self.facts.hash_root {
            Some(hash) => format!("{} {hash}", self.model),
            None => self.model.clone(),
        };
        crate::digest::sha256(identity.as_bytes()).to_string().chars().take(32).collect()
    }
}

/// Whether SPDX knows the name, or it says itself that SPDX does not.
fn is_expression(licence: &str) -> bool {
    let spdx = crate::licence::Licence::of_id(licence).and_then(|known| known.ids.spdx.as_deref());
    spdx == Some(licence)
}
