//! A card as CycloneDX 1.6, in JSON: a component `machine-learning-model` with its model card
//! (<https://cyclonedx.org/docs/1.6/json/>).

use super::Card;
use serde_json::{Map, Value, json};

impl Card {
    /// The card as a CycloneDX document that was made at `created`: `2026-11-28T20:16:00Z`.
    #[must_use]
    pub fn to_cyclonedx(&self, created: &str) -> Value {
        let licence = self.licence_known().map(|licence| {
            // Ids in the format are those of SPDX's list alone.
            let spdx = licence.ids.spdx.as_deref().filter(|id| !id.starts_with("LicenseRef-"));
            let mut choice = Map::new();
            match spdx {
                Some(id) => choice.insert("id".into(), id.into()),
                None => choice.insert("name".into(), licence.name.as_str().into()),
            };
            if licence.text_at.starts_with("https://") {
                choice.insert("url".into(), licence.text_at.as_str().into());
            }
            vec![json!({ "license": choice })]
        });
        let hash = self.facts.hash_root.map(|hash| hash.to_string());
        let properties =
            self.facts
                .rows()
                .into_iter()
                .map(|(name, value)| (format!("puna:fact:{name}"), value))
                .chain(self.claims.iter().map(|claim| (format!("puna:claim:{}", claim.name), claim.value.clone())))
                .chain(self.components.iter().map(|component| {
                    (format!("puna:component:{}", component.name.label()), component.present.to_string())
                }))
                .chain(
                    self.assessments
                        .iter()
                        .map(|found| (format!("puna:verdict:{}", found.framework), found.verdict.clone())),
                )
                .map(|(name, value)| json!({ "name": name, "value": value }));
        let model = without_null(json!({
            "type": "machine-learning-model",
            "bom-ref": format!("puna-{}", self.identity()),
            "name": self.model,
            "version": self.facts.revision,
            "description": self.called,
            "supplier": self.about.vendor.as_ref().map(|vendor| json!({ "name": vendor })),
            "licenses": licence,
            // Of the lines that sha256sum writes of all files, sorted by path.
            "hashes": hash.map(|hash| vec![json!({ "alg": "SHA-256", "content": hash })]),
            "externalReferences": self.about.home.as_ref().map(|home| vec![json!({ "type": "distribution", "url": home })]),
            "modelCard": without_null(json!({
                "modelParameters": without_null(json!({
                    "task": self.about.task,
                    "architectureFamily": self.about.architecture_family,
                    "modelArchitecture": self.about.kind,
                })),
                "considerations": without_null(json!({
                    "technicalLimitations": self.about.limitations.as_ref().map(|text| vec![text]),
                })),
            })),
            "properties": properties.collect::<Vec<_>>(),
        }));
        json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": created,
                "tools": { "components": [{ "type": "application", "name": "puna" }] },
            },
            "components": [model],
        })
    }
}

/// An object without what is not known.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(object.into_iter().filter(|(_, value)| !value.is_null()).collect()),
        value => value,
    }
}
