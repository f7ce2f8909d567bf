//! The CRDs as YAML: generated from the types, finished where a derive cannot say it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::{HookAuthority, HookCertificate, HookGuard, KrakeHook};

/// Each CRD with the name of the file it is kept in.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("krakehooks.yaml", finished(&KrakeHook::crd())),
        ("hookcertificates.yaml", finished(&HookCertificate::crd())),
        ("hookguards.yaml", finished(&HookGuard::crd())),
        ("hookauthorities.yaml", finished(&HookAuthority::crd())),
    ]
}

/// One CRD as YAML.
pub fn yaml(crd: &Value) -> String {
    serde_yaml_ng::to_string(crd).expect("a JSON value is always valid YAML")
}

/// Takes `nullable` away: an explicit null would count as present (`has()` in CEL) and as absent
/// (`None` in the types) at once.
fn forbid_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("nullable");
            fields.values_mut().for_each(forbid_null);
        }
        Value::Array(items) => items.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

/// Adds what the API server needs and a derive cannot express: `status: {}` as the default, so that
/// the callback can add a key into a status nobody has written yet; and the label that says whose
/// object this is.
fn finished(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a CRD is always valid JSON");
    forbid_null(&mut crd);
    crd["metadata"]["labels"] = json!({ super::names::MANAGED_BY_LABEL: super::names::MANAGED_BY });
    if let Some(versions) = crd
        .pointer_mut("/spec/versions")
        .and_then(Value::as_array_mut)
    {
        for version in versions {
            if let Some(status) = version.pointer_mut("/schema/openAPIV3Schema/properties/status") {
                status["default"] = json!({});
            }
        }
    }
    crd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_what_the_types_say() {
        for (file, crd) in all() {
            let path = format!("{}/crds/{file}", env!("CARGO_MANIFEST_DIR"));
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == yaml(&crd),
                "crds/{file} has drifted from src/api: run `make crds`"
            );
        }
    }

    #[test]
    fn every_field_is_documented() {
        fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if field["description"].as_str().is_none_or(str::is_empty) {
                    missing.push(path.clone());
                }
                walk(&path, field, missing);
            }
        }
        let mut missing = Vec::new();
        for (file, crd) in all() {
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
            for part in ["spec", "status"] {
                walk(&format!("{file}:{part}"), &schema[part], &mut missing);
            }
        }
        assert!(missing.is_empty(), "no doc comment: {missing:?}");
    }
}
