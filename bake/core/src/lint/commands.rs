//! What the commands of a recipe do behind the plan's back: start services, install packages, download.
//!
//! A shell's text is cut into its simple commands by its operators, as far as a lint needs: quotes join words, comments
//! are dropped, and what a variable holds nobody knows. Main function: [`findings`].

use crate::operation::Run;

/// Something that a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    /// A service starts.
    StartsService,
    /// Packages of Debian come without the plan knowing of them.
    InstallsPackages,
    /// Packages of Python come in whatever version is newest.
    InstallsPython,
    /// Something is downloaded that no checksum is compared with.
    Downloads,
    /// Something is downloaded and run.
    RunsDownload,
}

/// A program with its arguments.
struct Command {
    words: Vec<String>,
    /// Its output goes to the next command.
    piped: bool,
}

/// What a command or script does, each once. `script` is the script's text, where it is known.
pub(super) fn findings(run: &Run, script: Option<&str>) -> Vec<Finding> {
    let mut commands = match (run.shell, script) {
        (true, _) => run.argv.iter().flat_map(|text| simple_commands(text)).collect(),
        (false, Some(script)) if is_shell(script) => simple_commands(script),
        (false, Some(_)) => Vec::new(),
        (false, None) if run.script.is_none() => vec![Command { words: run.argv.clone(), piped: false }],
        (false, None) => Vec::new(),
    };
    let inner: Vec<Command> = commands.iter().flat_map(|command| inner_commands(&command.words)).collect();
    commands.extend(inner);
    let checked = commands.iter().any(|command| checks_sum(arguments(&command.words)));
    let mut found: Vec<Finding> = commands
        .iter()
        .enumerate()
        .filter_map(|(index, command)| finding(command, commands.get(index + 1), checked))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether a script is one of a shell: only its words are understood here.
fn is_shell(script: &str) -> bool {
    match script.lines().next().and_then(|line| line.strip_prefix("#!")) {
        Some(line) => line.split_whitespace().map(program_name).any(|word| SHELLS.contains(&word)),
        None => true,
    }
}

const SHELLS: [&str; 5] = ["sh", "bash", "dash", "zsh", "ksh"];
const INTERPRETERS: [&str; 5] = ["python", "python3", "perl", "ruby", "node"];

fn program_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The text that a shell is given as an argument: `["sh", "-c", "…"]`.
fn inner_commands(words: &[String]) -> Vec<Command> {
    match arguments(words) {
        [shell, flag, text, ..]
            if SHELLS.contains(&program_name(shell)) && flag.starts_with('-') && flag.ends_with('c') =>
        {
            simple_commands(text)
        }
        _ => Vec::new(),
    }
}

/// The words of a command from its program on: without assignments, and without what only runs another program.
fn arguments(words: &[String]) -> &[String] {
    const BEFORE: [&str; 16] = [
        "sudo", "env", "exec", "nice", "nohup", "time", "command", "if", "then", "else", "elif", "while",
        "until", "do", "!", "{",
    ];
    let skipped = words.iter().take_while(|word| {
        let assigns = word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        assigns || BEFORE.contains(&word.as_str())
    });
    &words[skipped.count()..]
}

fn finding(command: &Command, next: Option<&Command>, checked: bool) -> Option<Finding> {
    let words = arguments(&command.words);
    let (program, rest) = words.split_first()?;
    let program = program_name(program);
    let after: Vec<&str> = rest.iter().map(String::as_str).collect();
    let verbs: Vec<&str> = after.iter().copied().filter(|word| !word.starts_with('-')).collect();
    let verb = verbs.first().copied().unwrap_or_default();
    let starts = |word: &str| matches!(word, "start" | "restart" | "try-restart" | "reload-or-restart");
    match program {
        "systemctl" if starts(verb) || (verb == "enable" && after.contains(&"--now")) => {
            Some(Finding::StartsService)
        }
        "service" | "invoke-rc.d" if verbs.get(1).is_some_and(|verb| starts(verb)) => {
            Some(Finding::StartsService)
        }
        _ if words[0].starts_with("/etc/init.d/") && starts(verb) => Some(Finding::StartsService),
        "apt-get" | "apt" | "aptitude" if installs(verb) => Some(Finding::InstallsPackages),
        "pip" | "pip3" if verb == "install" && !pinned(&after) => Some(Finding::InstallsPython),
        _ if INTERPRETERS[..2].contains(&program) => match after.as_slice() {
            ["-m", "pip", "install", packages @ ..] if !pinned(packages) => Some(Finding::InstallsPython),
            _ => None,
        },
        "curl" | "wget" => downloads(program, &after, next.filter(|_| command.piped), checked),
        _ => None,
    }
}

fn installs(verb: &str) -> bool {
    matches!(verb, "install" | "reinstall" | "upgrade" | "dist-upgrade" | "full-upgrade" | "safe-upgrade")
}

/// Whether every requirement names its version, or a file whose hashes are required.
fn pinned(arguments: &[&str]) -> bool {
    let requirements = arguments.iter().filter(|word| !word.starts_with('-') && **word != "install");
    let exact = |word: &&str| word.contains("==") || word.starts_with(['/', '.']) || word.contains("@ ");
    arguments.contains(&"--require-hashes") || requirements.clone().all(exact)
}

fn downloads(program: &str, words: &[&str], next: Option<&Command>, checked: bool) -> Option<Finding> {
    let own = |word: &&str| ["://localhost", "://127.", "://[::1]"].iter().any(|host| word.contains(host));
    if words.contains(&"--spider") || words.iter().any(own) {
        return None;
    }
    let reader = next.and_then(|next| arguments(&next.words).first()).map(|word| program_name(word));
    if reader.is_some_and(|reader| SHELLS.contains(&reader) || INTERPRETERS.contains(&reader)) {
        return Some(Finding::RunsDownload);
    }
    // `curl -fsSLo FILE`: a letter among others.
    let letter = |letter: char| {
        words.iter().any(|word| word.starts_with('-') && !word.starts_with("--") && word.contains(letter))
    };
    let long =
        |names: &[&str]| words.iter().any(|word| names.contains(&word.split('=').next().unwrap_or(word)));
    let keeps = match program {
        "wget" => true,
        _ => letter('o') || letter('O') || long(&["--output", "--remote-name", "--remote-name-all"]),
    };
    let unpacks = matches!(reader, Some("tar" | "gpg" | "tee" | "gunzip" | "zcat" | "apt-key" | "dd"));
    let redirected = words.contains(&">") || words.contains(&">>");
    ((keeps || unpacks || redirected) && !checked).then_some(Finding::Downloads)
}

/// Whether a command compares checksums: `sha256sum -c`.
fn checks_sum(words: &[String]) -> bool {
    let [program, rest @ ..] = words else { return false };
    let compares = rest.iter().any(|word| word == "--check" || (word.starts_with('-') && word.contains('c')));
    matches!(program_name(program), "sha256sum" | "sha512sum" | "shasum" | "b2sum") && compares
}

/// The simple commands of a shell's text.
fn simple_commands(text: &str) -> Vec<Command> {
    let mut commands = Vec::new();
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut characters = text.chars().peekable();
    let mut quote = None;
    let end =
        |words: &mut Vec<String>, word: &mut Option<String>, commands: &mut Vec<Command>, piped: bool| {
            words.extend(word.take());
            if !words.is_empty() {
                commands.push(Command { words: std::mem::take(words), piped });
            }
        };
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(character),
            (_, '\\') => match characters.next() {
                Some('\n') | None => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            (None, '|') => {
                let either = characters.next_if_eq(&'|').is_some();
                characters.next_if_eq(&'&');
                end(&mut words, &mut word, &mut commands, !either);
            }
            // `2>&1` and `&>` are no ends.
            (None, '&') if word.as_deref().is_some_and(|word| word.ends_with('>')) => {
                word.get_or_insert_default().push(character);
            }
            (None, '&') if characters.peek() == Some(&'>') => {}
            (None, ';' | '\n' | '&' | '(' | ')' | '`') => end(&mut words, &mut word, &mut commands, false),
            (None, '>') => {
                let number =
                    word.as_deref().is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
                if number {
                    word.get_or_insert_default().push('>');
                } else {
                    words.extend(word.take());
                    words.push(if characters.next_if_eq(&'>').is_some() { ">>" } else { ">" }.to_owned());
                }
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    end(&mut words, &mut word, &mut commands, false);
    commands
}

#[cfg(test)]
mod tests {
    use super::Finding::{Downloads, InstallsPackages, InstallsPython, RunsDownload, StartsService};
    use super::*;

    fn shell(text: &str) -> Vec<Finding> {
        findings(&Run { argv: vec![text.to_owned()], shell: true, ..Run::default() }, None)
    }

    fn command(words: &str) -> Vec<Finding> {
        let argv = words.split(' ').map(str::to_owned).collect();
        findings(&Run { argv, ..Run::default() }, None)
    }

    #[test]
    fn services_are_started_in_many_ways() {
        for words in [
            "systemctl start nginx",
            "/bin/systemctl --no-block restart nginx",
            "systemctl enable --now nginx",
            "service nginx start",
            "invoke-rc.d nginx restart",
            "/etc/init.d/nginx start",
            "env A=1 systemctl start nginx",
        ] {
            assert_eq!(command(words), [StartsService], "{words}");
            assert_eq!(
                shell(&format!("cd /; if true; then {words} >/dev/null 2>&1; fi")),
                [StartsService],
                "{words}"
            );
        }
        for words in [
            "systemctl stop nginx",
            "systemctl enable nginx",
            "service nginx status",
            "echo systemctl start",
            "service start",
        ] {
            assert_eq!(command(words), [], "{words}");
        }
        let argv = ["bash", "-ec", "systemctl start nginx"].map(str::to_owned).to_vec();
        assert_eq!(findings(&Run { argv, ..Run::default() }, None), [StartsService]);
    }

    #[test]
    fn packages_come_past_the_plan() {
        assert_eq!(command("apt-get -y -qq install nginx"), [InstallsPackages]);
        assert_eq!(
            shell("apt-get update && DEBIAN_FRONTEND=noninteractive apt install nginx"),
            [InstallsPackages]
        );
        assert_eq!(command("apt-get update"), []);
        assert_eq!(command("pip install flask"), [InstallsPython]);
        assert_eq!(command("/opt/a/bin/pip3 install -U flask requests==2.31"), [InstallsPython]);
        assert_eq!(command("python3 -m pip install flask"), [InstallsPython]);
        assert_eq!(command("pip install flask==3.0.0 /opt/a"), []);
        assert_eq!(command("pip install --require-hashes -r requirements.txt"), []);
    }

    #[test]
    fn downloads_are_seen_where_nothing_checks_them() {
        for text in [
            "curl -fsSLo /opt/a https://example.org/a",
            "curl -O https://example.org/a",
            "curl --output=/opt/a https://example.org/a",
            "curl https://example.org/a > /opt/a",
            "wget https://example.org/a",
            "curl -sSL https://example.org/key | gpg --dearmor -o /etc/apt/keyrings/a.gpg",
            "x=$(wget -qO- https://example.org/a)",
        ] {
            assert_eq!(shell(text), [Downloads], "{text}");
        }
        for text in [
            "curl -sSL https://example.org/i | sudo bash -s -- -y",
            "wget -O - https://example.org/i | sh",
            "curl x |& python3 -",
        ] {
            assert_eq!(shell(text), [RunsDownload], "{text}");
        }
        for text in [
            "curl -f https://example.org/health",
            "curl -o /dev/null http://localhost:8080/",
            "wget -q --spider https://example.org",
            "curl -o a https://example.org/a && echo \"00 a\" | sha256sum -c",
            "# curl -o a https://example.org/a",
            "echo 'curl -o a https://example.org/a'",
        ] {
            assert_eq!(shell(text), [], "{text}");
        }
    }

    #[test]
    fn scripts_of_shells_are_read_and_others_are_not() {
        let script = |text: &str| findings(&Run { argv: vec![], ..Run::default() }, Some(text));
        assert_eq!(script("#!/bin/sh -e\n# start\nsystemctl \\\n  start nginx\n"), [StartsService]);
        assert_eq!(script("#!/usr/bin/env bash\nwget https://example.org/a\n"), [Downloads]);
        assert_eq!(script("#!/usr/bin/python3\nservice nginx start\n"), []);
    }
}
