//! `olbake new`: the least that passes `olbake check`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::names::NameError;
use olbake_core::stack::StackName;
use olbake_core::{ComponentName, ImageName};

const COMPONENT: &str = r#"# What it installs, how it is configured, and how a fresh boot shows that it works.
NAME_settings = settings(
    name = "NAME",
    fields = {
        "message": setting(str, default = "hello", doc = "What /etc/motd.d/NAME says"),
    },
)

def configure(s, m):
    files.content("/etc/motd.d/NAME", s.message + "\n", mode = 0o644)

def verify(s, m):
    check.file("/etc/motd.d/NAME", contains = s.message)

component(name = "NAME", settings = NAME_settings, configure = configure, verify = verify)
"#;

const IMAGE: &str = r#"image(
    name = "NAME",
    base = debian("bookworm"),
    components = [],
)
"#;

const PROJECT: &str = r#"# What it has in each environment. `QA.toml` beside this file is the configuration of one of its stacks.
Config = settings(
    name = "NAME",
    fields = {
        "greeting": setting(str, default = "hello", doc = "What the output says"),
    },
)

def stack(c, ctx):
    # Resources go here, such as `network = local.network("network", …)`; other stacks read the outputs.
    output("greeting", f"{c.greeting} from {ctx.name}")

project(config = Config, stack = stack)
"#;

const CONFIGURATION: &str = r#"# The configuration of PROJECT.QA: a line `NAME = VALUE` for each setting that differs from its default.
"#;

/// Writes a project, named by its folders below `stacks/`; refuses where there is one. Returns the files.
pub fn project(root: &Utf8Path, name: &str) -> Result<Vec<Utf8PathBuf>, Diagnostics> {
    let name = name.strip_prefix("stacks/").unwrap_or(name).trim_end_matches('/').replace('/', ".");
    let stack: StackName = format!("{name}.QA").parse().map_err(misnamed)?;
    let folder = format!("stacks/{}", stack.project_folder());
    let settings: ComponentName = name.rsplit('.').next().unwrap_or_default().parse().map_err(misnamed)?;
    let recipe = PROJECT.replace("NAME", settings.as_str());
    let mut files = write(root, &format!("{folder}/stack.star"), &recipe)?;
    let configuration = CONFIGURATION.replace("PROJECT", stack.project());
    files.extend(write(root, &format!("{folder}/QA.toml"), &configuration)?);
    Ok(files)
}

/// Writes a component; refuses where there is one. Returns the files.
pub fn component(root: &Utf8Path, name: &str) -> Result<Vec<Utf8PathBuf>, Diagnostics> {
    let name: ComponentName = name.parse().map_err(misnamed)?;
    let text = COMPONENT.replace("NAME_settings", &format!("{}_settings", name.as_str().replace('-', "_")));
    write(root, &format!("components/{name}/component.star"), &text.replace("NAME", name.as_str()))
}

/// Writes an image; refuses where there is one. Returns the files.
pub fn image(root: &Utf8Path, name: &str) -> Result<Vec<Utf8PathBuf>, Diagnostics> {
    let name: ImageName = name.parse().map_err(misnamed)?;
    write(root, &format!("images/{name}/image.star"), &IMAGE.replace("NAME", name.as_str()))
}

fn misnamed(error: NameError) -> Diagnostics {
    Diagnostic::error("name", error.to_string()).into()
}

fn write(root: &Utf8Path, file: &str, text: &str) -> Result<Vec<Utf8PathBuf>, Diagnostics> {
    let path = root.join(file);
    let wrong = |error: std::io::Error| -> Diagnostics {
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Diagnostic::error("exists", format!("`{file}` exists already"))
                    .help("choose another name")
                    .into()
            }
            _ => Diagnostic::error("write", format!("`{file}` cannot be written: {error}")).into(),
        }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(wrong)?;
    }
    let mut opened = OpenOptions::new().write(true).create_new(true).open(&path).map_err(wrong)?;
    opened.write_all(text.as_bytes()).map_err(wrong)?;
    Ok(vec![Utf8PathBuf::from(file)])
}
