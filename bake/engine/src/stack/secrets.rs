//! Secrets put into properties, for a provider and for nobody else.

use std::collections::BTreeMap;

use olbake_core::secret::SecretId;
use olbake_core::stack::{ResourceName, value};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::error::StackError;
use super::site::Site;

/// Properties with the secrets put in.
pub(super) fn reveal(
    site: &Site,
    name: &ResourceName,
    inputs: &Map<String, Value>,
) -> Result<Map<String, Value>, StackError> {
    let failure =
        |secret: SecretId, problem: String| StackError::Secret { name: name.clone(), secret, problem };
    let mut values = BTreeMap::new();
    for id in inputs.values().flat_map(value::secrets) {
        let read = (site.secrets)(&id).map_err(|problem| failure(id.clone(), problem))?;
        values.insert(id, read);
    }
    let known = |id: &SecretId| values.get(id).map(|value: &Zeroizing<String>| value.to_string());
    let reveal = |(name, input): (&String, &Value)| {
        let revealed =
            value::reveal(input, &known).map_err(|id| failure(id, "it has no value".to_owned()))?;
        Ok((name.clone(), revealed))
    };
    inputs.iter().map(reveal).collect()
}

/// Properties with those secrets put in that there are; the others stay markers. So that what is there can be looked
/// at and removed: a secret may leave the configuration together with what used it.
pub(super) fn reveal_known(site: &Site, inputs: &Map<String, Value>) -> Map<String, Value> {
    let known =
        |id: &SecretId| Some((site.secrets)(id).map_or_else(|_| id.marker(), |value| value.to_string()));
    let reveal = |input| value::reveal(input, &known).unwrap_or(Value::Null);
    inputs.iter().map(|(name, input)| (name.clone(), reveal(input))).collect()
}
