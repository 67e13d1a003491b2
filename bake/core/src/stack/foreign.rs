//! Outputs of stacks that other tools keep: a Pulumi checkpoint or a Terraform or OpenTofu state, as text. A team
//! can move one project at a time while the others still read what the old tool wrote.
//!
//! | tool | where the outputs are |
//! |---|---|
//! | Pulumi | `checkpoint.latest.resources[]` (or `deployment.resources[]` of an export) of type `pulumi:pulumi:Stack`, `outputs` |
//! | Terraform, OpenTofu | `outputs.NAME.value`, with `version: 4` |
//!
//! Secret values are refused: they are encrypted, or they stand there in the open and are not to be copied.

use std::collections::BTreeMap;

use serde_json::Value;

/// The key by which Pulumi marks a secret, and what it has there.
const PULUMI_SIGNATURE: &str = "4dabf18193072939515e22adb298388d";

/// The outputs of another tool's stack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    /// Those that can be read.
    pub outputs: BTreeMap<String, Value>,
    /// The names of secret ones.
    pub secret: Vec<String>,
}

/// Why a text is no state.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// It is no JSON.
    #[error("it is not JSON")]
    Json(#[from] serde_json::Error),
    /// It is encrypted as a whole.
    #[error("it is encrypted; write its outputs out with the tool that made it")]
    Encrypted,
    /// It is neither.
    #[error("it is neither a Pulumi checkpoint or export nor a Terraform or OpenTofu state of version 4")]
    Unknown,
}

/// Reads the outputs of a state.
pub fn read(text: &str) -> Result<Foreign, ForeignError> {
    let state: Value = serde_json::from_str(text)?;
    if state.get("encrypted_data").is_some() {
        return Err(ForeignError::Encrypted);
    }
    if let Some(resources) = pulumi_resources(&state) {
        return Ok(pulumi(resources));
    }
    if state["version"] == 4 && state["outputs"].is_object() {
        return Ok(terraform(&state["outputs"]));
    }
    Err(ForeignError::Unknown)
}

fn pulumi_resources(state: &Value) -> Option<&Vec<Value>> {
    ["/checkpoint/latest/resources", "/deployment/resources", "/latest/resources"]
        .into_iter()
        .find_map(|pointer| state.pointer(pointer)?.as_array())
}

fn pulumi(resources: &[Value]) -> Foreign {
    let stack = resources.iter().find(|resource| resource["type"] == "pulumi:pulumi:Stack");
    let outputs = stack.and_then(|stack| stack["outputs"].as_object());
    let mut found = Foreign::default();
    for (name, value) in outputs.into_iter().flatten() {
        if has_secret(value) {
            found.secret.push(name.clone());
        } else {
            found.outputs.insert(name.clone(), value.clone());
        }
    }
    found
}

fn has_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.contains_key(PULUMI_SIGNATURE) || map.values().any(has_secret),
        Value::Array(items) => items.iter().any(has_secret),
        _ => false,
    }
}

fn terraform(outputs: &Value) -> Foreign {
    let mut found = Foreign::default();
    for (name, output) in outputs.as_object().into_iter().flatten() {
        if output["sensitive"] == true {
            found.secret.push(name.clone());
        } else {
            found.outputs.insert(name.clone(), output["value"].clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pulumi_checkpoints_are_read() {
        let resources = json!([
            {"type": "aws:ec2/vpc:Vpc", "outputs": {"id": "no"}},
            {"type": "pulumi:pulumi:Stack", "outputs": {
                "vpc_id": "vpc-1",
                "subnets": ["a", "b"],
                "password": {PULUMI_SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:…"},
            }},
        ]);
        for state in [
            json!({"version": 3, "checkpoint": {"latest": {"resources": resources}}}),
            json!({"version": 3, "deployment": {"resources": resources}}),
        ] {
            let found = read(&state.to_string()).unwrap();
            assert_eq!(found.outputs["vpc_id"], "vpc-1");
            assert_eq!(found.outputs["subnets"], json!(["a", "b"]));
            assert_eq!(found.secret, ["password"]);
        }
    }

    #[test]
    fn terraform_states_are_read() {
        let state = json!({"version": 4, "outputs": {
            "zone": {"value": "eu", "type": "string"},
            "key": {"value": "hidden", "type": "string", "sensitive": true},
        }});
        let found = read(&state.to_string()).unwrap();
        assert_eq!(found.outputs, BTreeMap::from([("zone".to_owned(), json!("eu"))]));
        assert_eq!(found.secret, ["key"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert!(matches!(read("{"), Err(ForeignError::Json(_))));
        assert!(matches!(read(r#"{"encrypted_data":"x","version":4}"#), Err(ForeignError::Encrypted)));
        assert!(matches!(read(r#"{"version":3,"modules":[]}"#), Err(ForeignError::Unknown)));
    }
}
