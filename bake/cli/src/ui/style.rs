//! Colours, and text that may safely go to a terminal. Main type: [`Palette`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use anstyle::{AnsiColor, Effects, Style};

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Even into files and pipes.
    Always,
    /// Nowhere.
    Never,
}

/// The colours of one stream, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Palette {
    /// Whether there are any.
    pub(crate) enabled: bool,
}

impl Palette {
    /// The palette of a stream.
    pub(crate) fn choose(choice: ColorChoice, terminal: bool, env: &BTreeMap<String, String>) -> Self {
        let forbidden = env.get("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env.get("TERM").is_some_and(|term| term == "dumb");
        let enabled = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !forbidden,
        };
        Self { enabled }
    }

    fn paint(self, style: Style, text: impl Display) -> String {
        if self.enabled { format!("{style}{text}{style:#}") } else { text.to_string() }
    }

    /// What matters most.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint(Style::new().effects(Effects::BOLD), text)
    }

    /// What matters least.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint(Style::new().effects(Effects::DIMMED), text)
    }

    /// What went well, what is new.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// What went wrong, what goes.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint(AnsiColor::Red.on_default().effects(Effects::BOLD), text)
    }

    /// What to look at.
    pub(crate) fn warn(self, text: impl Display) -> String {
        self.paint(AnsiColor::Yellow.on_default().effects(Effects::BOLD), text)
    }

    /// What to do.
    pub(crate) fn hint(self, text: impl Display) -> String {
        self.paint(AnsiColor::Cyan.on_default().effects(Effects::BOLD), text)
    }
}

/// A text without escape sequences and control characters, line ends and tabs aside: what a command on a machine
/// wrote must not move this terminal's cursor. Characters that turn the direction of text go as well.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let stripped = anstream::adapter::strip_str(text).to_string();
    Cow::Owned(stripped.chars().filter(|c| !harmful(*c)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_choice_terminal_and_environment() {
        let none = BTreeMap::new();
        let no_color = BTreeMap::from([("NO_COLOR".to_owned(), "1".to_owned())]);
        let dumb = BTreeMap::from([("TERM".to_owned(), "dumb".to_owned())]);
        let enabled = |choice, terminal, env| Palette::choose(choice, terminal, env).enabled;
        assert!(enabled(ColorChoice::Auto, true, &none));
        assert!(!enabled(ColorChoice::Auto, false, &none));
        assert!(!enabled(ColorChoice::Auto, true, &no_color));
        assert!(!enabled(ColorChoice::Auto, true, &dumb));
        assert!(enabled(ColorChoice::Always, false, &no_color));
        assert!(!enabled(ColorChoice::Never, true, &none));
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("\u{1b}[2J\u{1b}]0;title\u{7}ok\r\n\tü"), "ok\n\tü");
        assert_eq!(clean("a\u{202e}b"), "ab");
        assert!(matches!(clean("plain"), Cow::Borrowed(_)));
    }
}
