//! Workspaces made for tests and benchmarks.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Writes a workspace with `images` images of `components` components each.
///
/// The components are of the kind that real images have: typed settings with a check, packages, a directory, a rendered
/// template, a unit and checks. Every image gives half of its components a setting that no other image gives, so
/// that what is worked out for one image does not serve for all.
pub fn generate(root: &Path, images: usize, components: usize) -> io::Result<()> {
    write(root, "olbake.toml", "")?;
    for number in 0..components {
        let name = format!("component-{number}");
        write(root, &format!("components/{name}/component.star"), &component(&name))?;
        write(root, &format!("components/{name}/templates/config.j2"), TEMPLATE)?;
    }
    for number in 0..images {
        write(root, &format!("images/image-{number}/image.star"), &image(number, components))?;
    }
    Ok(())
}

const TEMPLATE: &str = "# {{ arch }}\nlisten {{ s.port }}\n{% for name in s.names %}name {{ name }}\n{% endfor %}\
                        {% if s.verbose %}log debug\n{% endif %}data {{ s.data_dir }}\n";

const COMPONENT: &str = r#"Settings = settings(
    name = "NAME",
    fields = {
        "version": setting(str, default = "1.0", doc = "Version of the package"),
        "port": setting(port, default = 8080, doc = "Where it listens"),
        "names": setting(list[str], default = ["a.example.org", "b.example.org"], check = hostname, doc = "Names"),
        "data_dir": setting(path, default = "/var/lib/NAME", doc = "Data"),
        "verbose": setting(bool, default = False, doc = "Say more"),
    },
    validate = [("a name is needed", lambda s: len(s.names) > 0)],
)

def install(s, m):
    apt.packages(["NAME=" + s.version])
    files.directory(s.data_dir, owner = "root", mode = 0o750)

def configure(s, m):
    files.template("/etc/NAME/config", "templates/config.j2", vars = {"s": s, "arch": m.arch}, mode = 0o644)

def units(s, m):
    systemd.service("NAME.service", enabled = True, reload_on = ["/etc/NAME/config"])

def verify(s, m):
    check.unit("NAME.service")
    check.port(s.port)

component(name = "NAME", settings = Settings, install = install, configure = configure, units = units, verify = verify)
"#;

fn component(name: &str) -> String {
    COMPONENT.replace("NAME", name)
}

fn image(number: usize, components: usize) -> String {
    let mut text = format!(
        "image(\n    name = \"image-{number}\",\n    base = debian(\"bookworm\"),\n    components = [\n"
    );
    for component in 0..components {
        let own = if component % 2 == 0 { format!(", port = {}", 1024 + number) } else { String::new() };
        // Writing to a `String` cannot fail.
        let _written = writeln!(text, "        use(\"//components/component-{component}\"{own}),");
    }
    text.push_str("    ],\n)\n");
    text
}

fn write(root: &Path, file: &str, text: &str) -> io::Result<()> {
    let path = root.join(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
