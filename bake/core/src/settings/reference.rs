//! What people and editors read about a component's settings: a Markdown table and a JSON Schema.

use serde_json::{Map, Value, json};

use super::schema::{Field, Schema};
use super::types::{RecordField, Type};

/// A Markdown table of the settings.
pub fn markdown(schema: &Schema) -> String {
    if schema.fields.is_empty() {
        return "This component has no settings.\n".to_owned();
    }
    let mut text = String::from("| setting | type | default | meaning |\n|---|---|---|---|\n");
    for (name, field) in &schema.fields {
        let rules = rules(field);
        let doc = field.doc.as_deref().unwrap_or_default().trim();
        let meaning =
            [doc, rules.as_str()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let row = [format!("`{name}`"), format!("`{}`", field.ty), default_text(field), meaning];
        text.push_str(&format!(
            "| {} |\n",
            row.map(|cell| cell.replace('|', "\\|").replace('\n', " ")).join(" | ")
        ));
    }
    text
}

fn default_text(field: &Field) -> String {
    match (&field.default, &field.source) {
        (_, Some(source)) => format!("from `{source}`"),
        _ if field.computed => "computed".to_owned(),
        (Some(Value::Null), _) => "none".to_owned(),
        (Some(value), _) => match (&field.ty, value.as_u64()) {
            (Type::Mode, Some(mode)) => format!("`0o{mode:o}`"),
            _ => format!("`{value}`"),
        },
        (None, _) if field.ty.is_optional() => "none".to_owned(),
        (None, _) => "required".to_owned(),
    }
}

fn rules(field: &Field) -> String {
    let constraints = &field.constraints;
    let mut rules = Vec::new();
    rules.extend(constraints.ge.map(|least| format!("at least {least}")));
    rules.extend(constraints.le.map(|most| format!("at most {most}")));
    rules.extend(constraints.len.map(|(fewest, most)| match (fewest, most) {
        (fewest, u64::MAX) => format!("at least {fewest} long"),
        (fewest, most) if fewest == most => format!("{fewest} long"),
        (fewest, most) => format!("{fewest} to {most} long"),
    }));
    rules.extend(constraints.regex.as_ref().map(|regex| format!("matches `{}`", regex.as_str())));
    if !constraints.one_of.is_empty() {
        let all: Vec<String> = constraints.one_of.iter().map(|value| format!("`{value}`")).collect();
        rules.push(format!("one of {}", all.join(", ")));
    }
    rules.extend(field.check.as_ref().map(|ty| {
        format!("each must be a {ty}").replace("each ", if is_list(&field.ty) { "each " } else { "" })
    }));
    rules.join(", ")
}

fn is_list(ty: &Type) -> bool {
    match ty {
        Type::List(_) | Type::Set(_) => true,
        Type::Optional(inner) => is_list(inner),
        _ => false,
    }
}

/// A JSON Schema of the settings as an object.
pub fn json_schema(schema: &Schema) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, field) in schema.fields.iter().filter(|(_, field)| !field.computed) {
        properties.insert(name.clone(), field_schema(field));
        if field.required() {
            required.push(Value::from(name.clone()));
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("settings of {}", schema.name),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn field_schema(field: &Field) -> Value {
    let mut schema = type_schema(&field.ty);
    let Some(object) = schema.as_object_mut() else { return schema };
    if let Some(doc) = &field.doc {
        object.insert("description".to_owned(), Value::from(doc.clone()));
    }
    if let (Some(default), false) = (&field.default, field.ty.is_secret()) {
        object.insert("default".to_owned(), default.clone());
    }
    if let Some(least) = field.constraints.ge {
        object.insert("minimum".to_owned(), json!(least));
    }
    if let Some(most) = field.constraints.le {
        object.insert("maximum".to_owned(), json!(most));
    }
    if let Some(regex) = &field.constraints.regex {
        object.insert("pattern".to_owned(), Value::from(format!("^(?:{})$", regex.as_str())));
    }
    if !field.constraints.one_of.is_empty() && !is_list(&field.ty) {
        object.insert("enum".to_owned(), Value::from(field.constraints.one_of.clone()));
    }
    schema
}

fn type_schema(ty: &Type) -> Value {
    match ty {
        Type::Str | Type::Deferred | Type::Version => json!({ "type": "string" }),
        Type::Int => json!({ "type": "integer" }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Float => json!({ "type": "number" }),
        Type::Path => json!({ "type": "string", "pattern": "^/" }),
        Type::Url => json!({ "type": "string", "format": "uri" }),
        Type::Duration => json!({ "type": "string", "pattern": "^([0-9]+\\s*(ms|s|sec|m|min|h|d|w)\\s*)+$" }),
        Type::Bytes => json!({ "type": ["integer", "string"] }),
        Type::Hostname => json!({ "type": "string", "format": "hostname" }),
        Type::Ip => json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }),
        Type::Cidr => json!({ "type": "string", "pattern": "/[0-9]{1,3}$" }),
        Type::Port => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
        Type::Mode => json!({ "type": ["integer", "string"] }),
        Type::Secret => json!({ "type": "string", "pattern": "^(env|file):.+$" }),
        Type::Enum(words) => json!({ "enum": words }),
        Type::List(inner) => json!({ "type": "array", "items": type_schema(inner) }),
        Type::Set(inner) => json!({ "type": "array", "items": type_schema(inner), "uniqueItems": true }),
        Type::Map(_, values) => json!({ "type": "object", "additionalProperties": type_schema(values) }),
        Type::Record(fields) => record_schema(fields),
        Type::Optional(inner) => json!({ "anyOf": [type_schema(inner), { "type": "null" }] }),
        Type::Union(all) => json!({ "anyOf": all.iter().map(type_schema).collect::<Vec<_>>() }),
    }
}

fn record_schema(fields: &[RecordField]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.clone(), type_schema(&field.ty))).collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| field.default.is_none() && !field.ty.is_optional())
        .map(|field| field.name.as_str())
        .collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}
