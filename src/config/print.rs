//! The configuration as text: the commented file, and what is in force.

use super::Config;
use super::keys;
use super::table::{DescribedKey, Reload, SectionDescription};

/// Columns of a comment.
const WIDTH: usize = 118;

const HEAD: &str = "otp-relay: every setting, commented out at its default. Lines that start with \"#\" and a letter or bracket are \
                    settings: take the \"#\" away to change one, and away from the heading above it. Settings marked \
                    \"example\" have no default.\n\
                    \n\
                    Durations are \"250ms\", \"30s\", \"10m\", \"2h\", \"7d\"; sizes \"64KiB\", \"1MiB\"; rates \"50/s\", \"5/10m\". \
                    Relative paths start at this file's folder. ${NAME} in a value is replaced by the environment variable \
                    NAME. `otp-relay check --offline` tells every mistake with its line. What is marked (reload) is taken on \
                    by SIGHUP, the rest by a restart. `otp-relay config` prints this file.";

/// The commented file.
pub fn commented() -> String {
    let mut text = comment(HEAD);
    for section in keys::all() {
        text.push('\n');
        text.push_str(&described(&section));
    }
    text
}

/// relay.toml(5), in the language of man pages, with a date like 2026-11-28.
pub(crate) fn manual(date: &str) -> String {
    let paragraphs = HEAD.split('\n').filter(|paragraph| !paragraph.is_empty());
    // No line is spread to the right edge: a long value cannot be.
    let mut text = format!(
        ".TH relay.toml 5 \"{date}\" \"otp-relay {}\"\n.ad l\n.SH NAME\nrelay.toml \\- configuration of otp\\-relay\n\
         .SH DESCRIPTION\n{}\n",
        env!("CARGO_PKG_VERSION"),
        paragraphs.map(escaped).collect::<Vec<_>>().join("\n.PP\n")
    );
    for section in keys::all() {
        let heading = if section.heading.is_empty() { "TOP OF THE FILE".to_owned() } else { section.heading.clone() };
        text.push_str(&format!(".SH {}\n{}\n", escaped(&heading), escaped(section.help)));
        let is_live = section.reload == Some(Reload::Live);
        for key in &section.keys {
            // A quote of a macro's line would be taken for one around its words.
            let value = breakable(&escaped(&key.value)).replace('"', "\\(dq");
            let help = escaped(&about(key, is_live));
            text.push_str(&format!(".TP\n.B {}\n{help}\n.br\n.I {} = {value}\n", escaped(key.name), escaped(key.name)));
        }
    }
    text + ".SH SEE ALSO\n.BR otp-relay (1)\n"
}

/// Back-slashes are commands, and so are points and apostrophes at the beginning of a line; hyphens stay what they are.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// A hash is one long word: it may go on in the next line behind `$` and `=:`, and after so many letters and digits.
fn breakable(text: &str) -> String {
    const RUN_MAX: usize = 32;
    let mut broken = String::with_capacity(text.len());
    let mut run = 0;
    for letter in text.chars() {
        broken.push(letter);
        run = if letter.is_ascii_alphanumeric() { run + 1 } else { 0 };
        if run == RUN_MAX || letter == '$' || broken.ends_with("=:") {
            broken.push_str("\\:");
            run = 0;
        }
    }
    broken
}

fn described(section: &SectionDescription) -> String {
    let is_live = section.reload == Some(Reload::Live);
    let mut text = String::new();
    if !section.heading.is_empty() {
        text.push_str(&comment(&marked(section.help, is_live, false)));
        text.push_str(&format!("#{}\n", section.heading));
    }
    for (index, key) in section.keys.iter().enumerate() {
        if section.heading.is_empty() && index > 0 {
            text.push('\n');
        }
        text.push_str(&comment(&about(key, is_live)));
        text.push_str(&format!("#{} = {}\n", key.name, key.value));
    }
    text
}

fn about(key: &DescribedKey, section_is_live: bool) -> String {
    marked(key.help, key.reload == Reload::Live && !section_is_live, key.is_example)
}

/// With what a reader looks for at the end.
fn marked(help: &str, is_live: bool, is_example: bool) -> String {
    let live = if is_live { "(reload)" } else { "" };
    let example = if is_example { "(example)" } else { "" };
    [help, live, example].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// In lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.split('\n').filter(|_| !text.is_empty()) {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push_str(&format!("{line}\n"));
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        lines.push_str(&format!("{line}\n"));
    }
    lines
}

impl Config {
    /// What is in force, as a file would say it; secrets are left out.
    pub fn in_force(&self) -> String {
        let mut text = String::new();
        for (heading, rows) in &self.in_force {
            if !heading.is_empty() {
                text.push_str(&format!("\n{heading}\n"));
            }
            for row in rows {
                text.push_str(&match &row.value {
                    Some(value) => format!("{} = {value}\n", row.name),
                    None => format!("# {} is set, and not shown\n", row.name),
                });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_wrapped_between_words() {
        assert_eq!(comment(""), "");
        assert_eq!(comment("one\n\ntwo"), "# one\n#\n# two\n");
        let long = comment(&"word ".repeat(60));
        assert!(long.lines().count() == 3 && long.lines().all(|line| line.len() <= WIDTH && line.ends_with("word")));
    }

    #[test]
    fn the_manual_has_every_key() {
        let page = manual("2026-11-28");
        for key in keys::all().iter().flat_map(|section| &section.keys) {
            assert!(page.contains(&format!("\n.B {}\n", key.name)), "{}", key.name);
        }
        assert_eq!(escaped(".a-b\\"), "\\&.a\\-b\\e");
        // A value is shown with its quotes, as it has to be written.
        assert!(page.contains("\n.I hostname = \\(dqrelay.example.com\\(dq\n"), "{page}");
        assert!(page.lines().filter(|line| line.starts_with(".I ")).all(|line| !line.contains('"')));
        assert_eq!(breakable("$a=:b"), "$\\:a=:\\:b");
        assert_eq!(breakable(&"f".repeat(64)), format!("{0}\\:{0}\\:", "f".repeat(32)));
    }

    #[test]
    fn everything_has_a_word_of_help_and_a_value() {
        for section in keys::all() {
            assert!(!section.help.is_empty() || section.heading.is_empty(), "{}", section.heading);
            for key in section.keys {
                assert!(!key.value.is_empty(), "{} {}", section.heading, key.name);
            }
        }
    }
}
