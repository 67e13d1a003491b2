//! Canonical JSON: one text for one value, so that its digest means the value.
//!
//! Objects have their keys sorted by bytes, there is no white space, and numbers are written as `serde_json`
//! writes them. Values with floating point numbers that are not finite cannot be expressed in JSON and become
//! `null`; plans have none.

use serde::Serialize;
use serde_json::Value;

/// The canonical JSON text of a value.
///
/// # Panics
/// When the value cannot be expressed in JSON, such as a map whose keys are not strings. No type of this crate
/// can be such a value.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("types of a plan are expressible in JSON");
    let mut text = String::with_capacity(256);
    write(&value, &mut text);
    text
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_scalar(&Value::String(key.clone()), out);
                out.push(':');
                write(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        scalar => write_scalar(scalar, out),
    }
}

fn write_scalar(value: &Value, out: &mut String) {
    out.push_str(&value.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value: Value = serde_json::from_str(r#"{"b": [ {"z":1, "a":null} ], "a": "x\n"}"#).unwrap();
        assert_eq!(to_string(&value), r#"{"a":"x\n","b":[{"a":null,"z":1}]}"#);
    }
}
