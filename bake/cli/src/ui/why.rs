//! Reasons in words: "component `caddy` changed a1b2 → c3d4: setting version "2.6" → "2.7"".

use olbake_core::plan::Base;
use olbake_core::why::{Difference, FieldChange, Reason};
use serde_json::Value;

use super::human;
use super::style::{Palette, clean};

/// Characters of a value that are shown.
const VALUE: usize = 60;

/// The reasons for one image, a line each, with their differences indented below.
pub(crate) fn text(image: &str, reasons: &[Reason], palette: Palette) -> String {
    if reasons.is_empty() {
        return format!("{}: nothing changed since the last version\n", palette.bold(image));
    }
    if let [Reason::NeverBaked] = reasons {
        return format!("{}: there is no version yet\n", palette.bold(image));
    }
    let mut text = format!("rebuild {}:\n", palette.bold(image));
    for reason in reasons {
        let (line, differences) = reason_text(reason, palette);
        text.push_str(&format!("  {line}\n"));
        for difference in differences {
            for line in difference_text(difference, palette) {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    text
}

fn reason_text(reason: &Reason, palette: Palette) -> (String, &[Difference]) {
    let arrow = |old: &str, new: &str| format!("{} → {}", palette.bad(old), palette.good(new));
    match reason {
        Reason::NeverBaked => ("there is no version yet".to_owned(), &[]),
        Reason::EpochChanged => ("this olbake makes other keys of the same recipe".to_owned(), &[]),
        Reason::ArchitectureChanged { old, new } => {
            (format!("architecture {}", arrow(old.debian(), new.debian())), &[])
        }
        Reason::BaseChanged { old, new } => (format!("base {}", arrow(&base(old), &base(new))), &[]),
        Reason::ComponentAdded { component } => {
            (format!("component `{component}` is {}", palette.good("new")), &[])
        }
        Reason::ComponentRemoved { component } => {
            (format!("component `{component}` is {}", palette.bad("gone")), &[])
        }
        Reason::ComponentMoved { component, old, new } => (
            format!("component `{component}` moved: place {}", arrow(&old.to_string(), &new.to_string())),
            &[],
        ),
        Reason::ComponentChanged { component, old, new, differences } => {
            (format!("component `{component}` changed {}", arrow(&old.short(), &new.short())), differences)
        }
        Reason::SealChanged { differences } => ("what is removed at the end changed".to_owned(), differences),
        Reason::ChecksChanged { component, differences } => {
            (format!("checks of `{component}` changed"), differences)
        }
    }
}

/// A base in a few words.
pub(crate) fn base(base: &Base) -> String {
    match base {
        Base::Debian { suite, packages, mirror, disk_size } => {
            let mut parts = vec![human::size(*disk_size)];
            parts.extend((!packages.is_empty()).then(|| human::plural(packages.len(), "package")));
            parts.extend(mirror.clone());
            format!("debian {suite} ({})", parts.join(", "))
        }
        Base::Image { image, key } => format!("{image} {}", key.short()),
        Base::Disk { file, sha256 } => format!("{file} {}", sha256.short()),
        Base::Ami { owner, name } => format!("{name} of {owner}"),
    }
}

fn difference_text(difference: &Difference, palette: Palette) -> Vec<String> {
    match difference {
        Difference::SettingChanged { setting, old, new, layer } => {
            let from = layer.as_ref().map(|layer| palette.dim(format!(" ({layer})"))).unwrap_or_default();
            let none = Value::Null;
            let change = change(old.as_ref().unwrap_or(&none), new.as_ref().unwrap_or(&none), palette);
            vec![format!("setting {setting} {change}{from}")]
        }
        Difference::SecretChanged { secret } => vec![format!("secret {secret} has another value")],
        Difference::BootedChanged { new: Some(why), .. } => {
            vec![format!("needs a booted machine: {}", clean(why))]
        }
        Difference::BootedChanged { new: None, .. } => vec!["needs no booted machine any more".to_owned()],
        Difference::OperationAdded { title, span, .. } => {
            let place =
                span.as_ref().map(|span| palette.dim(format!(" ({})", span.location()))).unwrap_or_default();
            vec![format!("{} {}{place}", palette.good("+"), title_text(title))]
        }
        Difference::OperationRemoved { title, .. } => {
            vec![format!("{} {}", palette.bad("-"), title_text(title))]
        }
        Difference::OperationChanged { title, span, fields, .. } => {
            let place =
                span.as_ref().map(|span| palette.dim(format!(" ({})", span.location()))).unwrap_or_default();
            let mut lines = vec![format!("~ {}{place}", title_text(title))];
            lines.extend(fields.iter().map(|field| format!("    {}", field_text(field, palette))));
            lines
        }
        Difference::OrderChanged { phase } => vec![format!("the operations of {phase} run in another order")],
    }
}

fn title_text(title: &str) -> String {
    human::truncate(&clean(&human::mask(title)), 2 * VALUE)
}

fn field_text(FieldChange { field, old, new }: &FieldChange, palette: Palette) -> String {
    let octal = |value: &Value| match value.as_u64() {
        Some(mode) if field == "mode" || field.ends_with(".mode") => Value::String(format!("0o{mode:03o}")),
        _ => value.clone(),
    };
    let text = change(&octal(old), &octal(new), palette);
    format!("{field} {}", if field.ends_with("mode") { text.replace('"', "") } else { text })
}

fn change(old: &Value, new: &Value, palette: Palette) -> String {
    let show = |value: &Value| match value {
        Value::Null => "nothing".to_owned(),
        value => human::value(value, VALUE),
    };
    format!("{} → {}", palette.bad(show(old)), palette.good(show(new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use olbake_core::Digest;
    use serde_json::json;

    #[test]
    fn reasons_read_as_sentences() {
        let component: olbake_core::ComponentName = "caddy".parse().unwrap();
        let id = olbake_core::OperationId::new(&component, olbake_core::operation::Phase::Configure, 1);
        let digest = |text: &str| json!(Digest::of(text.as_bytes()).to_string());
        let field = |field: &str, old: Value, new: Value| FieldChange { field: field.into(), old, new };
        let reasons = [
            Reason::ComponentChanged {
                component: component.clone(),
                old: Digest::of(b"a"),
                new: Digest::of(b"b"),
                differences: vec![
                    Difference::SettingChanged {
                        setting: "version".into(),
                        old: Some(json!("2.6")),
                        new: Some(json!("2.7")),
                        layer: Some("image".into()),
                    },
                    Difference::OperationChanged {
                        id,
                        title: "files.template /etc/caddy/Caddyfile".into(),
                        span: None,
                        fields: vec![
                            field("content", digest("x"), digest("y")),
                            field("mode", json!(0o644), json!(0o600)),
                            field("owner", Value::Null, json!("caddy")),
                        ],
                    },
                ],
            },
            Reason::ComponentAdded { component },
        ];
        insta::assert_snapshot!(text("web", &reasons, Palette { enabled: false }));
        assert_eq!(
            text("web", &[], Palette { enabled: false }),
            "web: nothing changed since the last version\n"
        );
    }
}
