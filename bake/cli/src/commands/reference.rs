//! `olbake reference`: a component's settings in Markdown, printed or kept up to date in its README.

use camino::Utf8PathBuf;
use olbake_core::ComponentName;
use olbake_core::settings::did_you_mean;
use olbake_lang::Workspace;
use serde_json::json;

use super::Context;
use super::place::Place;
use crate::args::ReferenceArgs;
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::ui::human::plural;

/// The line before the table that `--write` brings up to date.
const BEGIN: &str = "<!-- settings: written by `olbake reference --write` -->";
/// The line after it.
const END: &str = "<!-- end of settings -->";

/// A README and what it should be.
struct Readme {
    /// Relative to the workspace.
    file: Utf8PathBuf,
    is: Option<String>,
    should: String,
}

impl Readme {
    fn is_stale(&self) -> bool {
        self.is.as_ref() != Some(&self.should)
    }
}

pub(super) fn run(args: &ReferenceArgs, context: &mut Context) -> Result {
    if let Some(markdown) = args.component.as_deref().and_then(resources) {
        match context.ui.json {
            true => {
                context.ui.result("reference", &json!({ "resources": args.component, "markdown": markdown }))
            }
            false => context.ui.print(&markdown),
        }
        return Ok(());
    }
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let components = match &args.component {
        Some(name) => vec![component(&workspace, name)?],
        None => workspace.components(),
    };
    if args.write || args.check {
        let readmes = readmes(&place, &workspace, &components)?;
        return if args.write { write(context, &place, &readmes) } else { check(context, &readmes) };
    }
    let [component] = &components[..] else {
        return Err(CliError::user("name a component").help("all of them take `--write` or `--check`"));
    };
    if args.schema {
        context.ui.document(&workspace.settings_schema(component)?);
    } else if context.ui.json {
        let markdown = workspace.settings_reference(component)?;
        context.ui.result("reference", &json!({ "component": component, "markdown": markdown }));
    } else {
        context.ui.print(&workspace.settings_reference(component)?);
    }
    Ok(())
}

/// What the types of a provider, or one type, take and give; none where there is no such name.
fn resources(name: &str) -> Option<String> {
    let catalog = super::stacks::catalog();
    let of_provider = Some(catalog.markdown(name)).filter(|text| !text.is_empty());
    of_provider.or_else(|| {
        let name = name.parse().ok()?;
        Some(catalog.get(&name)?.markdown(&name))
    })
}

fn component(workspace: &Workspace, name: &str) -> Result<ComponentName> {
    let known = workspace.components();
    known.iter().find(|component| component.as_str() == name).cloned().ok_or_else(|| {
        let error = CliError::user(format!("there is no component `{name}`"));
        match did_you_mean(name, known.iter().map(|component| component.as_str())) {
            Some(help) => error.help(help),
            None => error,
        }
    })
}

fn readmes(place: &Place, workspace: &Workspace, components: &[ComponentName]) -> Result<Vec<Readme>> {
    let mut readmes = Vec::new();
    for component in components {
        let file = Utf8PathBuf::from(format!("components/{component}/README.md"));
        let is = match std::fs::read_to_string(place.root.join(&file)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let context = format!("cannot read `{file}`");
                return Err(CliError::environment(anyhow::Error::new(error).context(context)));
            }
        };
        let text = is.clone().unwrap_or_else(|| format!("# {component}\n"));
        let should = with_table(&text, &workspace.settings_reference(component)?);
        readmes.push(Readme { file, is, should });
    }
    Ok(readmes)
}

/// A README's text with this table in the marked section, which is added at its end where there is none.
fn with_table(text: &str, table: &str) -> String {
    let section = format!("{BEGIN}\n{}\n{END}", table.trim_end());
    match text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1))) {
        Some((before, after)) => format!("{before}{section}{after}"),
        None => format!("{}\n\n## Settings\n\n{section}\n", text.trim_end()),
    }
}

fn write(context: &Context, place: &Place, readmes: &[Readme]) -> Result {
    let stale: Vec<&Readme> = readmes.iter().filter(|readme| readme.is_stale()).collect();
    for Readme { file, should, .. } in &stale {
        std::fs::write(place.root.join(file), should).map_err(|error| {
            CliError::environment(anyhow::Error::new(error).context(format!("cannot write `{file}`")))
        })?;
    }
    let files: Vec<&Utf8PathBuf> = stale.iter().map(|readme| &readme.file).collect();
    if context.ui.json {
        context.ui.result("reference", &json!({ "written": files }));
    } else {
        for file in files {
            context.ui.print(&format!("{file}\n"));
        }
    }
    Ok(())
}

fn check(context: &Context, readmes: &[Readme]) -> Result {
    let stale: Vec<&str> =
        readmes.iter().filter(|readme| readme.is_stale()).map(|readme| readme.file.as_str()).collect();
    if !stale.is_empty() {
        let error = anyhow::anyhow!("the settings are out of date in {}", stale.join(", "));
        return Err(
            CliError::new(Kind::Recipe, error).help("`olbake reference --write` brings them up to date")
        );
    }
    if context.ui.json {
        context.ui.result("reference", &json!({ "checked": readmes.len() }));
    } else {
        context.ui.print(&format!("{}: up to date\n", plural(readmes.len(), "README")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_section_is_replaced_and_nothing_else() {
        let text = format!("# caddy\n\nWords.\n\n{BEGIN}\nold\n{END}\n\nMore words.\n");
        let expect = format!("# caddy\n\nWords.\n\n{BEGIN}\nnew\n{END}\n\nMore words.\n");
        assert_eq!(with_table(&text, "new\n"), expect);
        assert_eq!(with_table(&expect, "new\n"), expect);
    }

    #[test]
    fn a_readme_without_a_section_gets_one_that_is_found_again() {
        let once = with_table("# caddy\n", "table\n");
        assert_eq!(once, format!("# caddy\n\n## Settings\n\n{BEGIN}\ntable\n{END}\n"));
        assert_eq!(with_table(&once, "table\n"), once);
    }

    /// `for p in local postgresql aws; do olbake reference $p; done` writes what follows the page's introduction.
    #[test]
    fn the_documentation_has_every_type() {
        let documented = include_str!("../../../../docs/resources.md");
        for provider in ["local", "postgresql", "aws"] {
            let text = resources(provider).expect("the provider has types");
            assert!(
                documented.contains(&text),
                "docs/resources.md is not what `olbake reference {provider}` prints"
            );
        }
    }
}
