//! Where a setting's value comes from, as people read it.

use olbake_core::plan::{Provenance, Setting};
use serde_json::Value;

use super::human;
use super::style::Palette;
use super::table::Table;

/// The value, and every layer that gave one: the last is in force.
pub(crate) fn text(name: &str, setting: &Setting, palette: Palette) -> String {
    let Setting { value, provenance } = setting;
    let mut text = format!("{} = {}\n", palette.bold(name), human::value(value, usize::MAX));
    let mut table = Table::new(["  LAYER", "VALUE", "FROM", ""]);
    for (index, from) in provenance.iter().enumerate() {
        let last = index + 1 == provenance.len();
        let state = if last { "in force" } else { "overridden" };
        table.row([
            format!("  {}", from.layer),
            human::value(&from.value, 60),
            place(from),
            state.to_owned(),
        ]);
    }
    text.push_str(&table.render(palette));
    text
}

fn place(from: &Provenance) -> String {
    match (&from.span, &from.name) {
        (Some(span), Some(name)) => format!("{name}, {}", span.location()),
        (Some(span), None) => span.location(),
        (None, Some(name)) => name.clone(),
        (None, None) => String::new(),
    }
}

/// A value with the names of secrets in the place of their markers, for JSON.
pub(crate) fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(human::mask(text)),
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), masked(value))).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olbake_core::span::Span;
    use serde_json::json;

    #[test]
    fn every_layer_is_listed_and_secrets_are_named() {
        let span = Span {
            file: "components/caddy/component.star".into(),
            line: 5,
            column: 20,
            end_line: 5,
            end_column: 29,
        };
        let from = |layer: &str, name: Option<&str>, span: Option<Span>, value: Value| Provenance {
            layer: layer.into(),
            name: name.map(str::to_owned),
            span,
            value,
        };
        let setting = Setting {
            value: json!("2.7"),
            provenance: vec![
                from("default", None, Some(span), json!("2.6.2-5")),
                from("environment", Some("CADDY_VERSION"), None, json!("2.7")),
            ],
        };
        insta::assert_snapshot!(text("caddy.version", &setting, Palette { enabled: false }));
        let marker = olbake_core::secret::SecretId("caddy.acme".into()).marker();
        assert_eq!(masked(&json!([{"a": marker}])), json!([{"a": "‹secret caddy.acme›"}]));
    }
}
