//! The budget form of a recipient: the mailbox that an address reaches, whatever the spelling, as far as that is known
//! without asking its host. It is for counting, and for nothing else: it never decides whose code, entry or suppression
//! something is.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::mail::address::Mailbox;

/// What begins a tag at any host.
const TAG: char = '+';
const SOURCE: &str = include_str!("budget_form.toml");

// A test reads the embedded file, so that no other can be shipped.
static PROVIDERS: LazyLock<Providers> = LazyLock::new(|| Providers::read(SOURCE).expect("budget_form.toml is sound"));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    domains: Vec<String>,
    #[serde(default)]
    ignored: String,
    #[serde(default)]
    same: String,
    #[serde(default)]
    tags: String,
    #[serde(default)]
    subdomains: bool,
}

struct Providers {
    providers: Vec<Provider>,
    by_domain: HashMap<String, usize>,
}

impl Providers {
    /// # Errors
    /// What is wrong with the file.
    fn read(source: &str) -> Result<Self, String> {
        let File { provider: providers } = toml::from_str(source).map_err(|error| error.to_string())?;
        let mut by_domain = HashMap::new();
        for (index, provider) in providers.iter().enumerate() {
            if provider.domains.is_empty() {
                return Err("a provider without domains".to_owned());
            }
            for domain in &provider.domains {
                if by_domain.insert(domain.clone(), index).is_some() {
                    return Err(format!("{domain} stands there twice"));
                }
            }
        }
        Ok(Self { providers, by_domain })
    }

    fn of(&self, domain: &str) -> Option<&Provider> {
        self.by_domain.get(domain).map(|index| &self.providers[*index])
    }

    /// The provider of a name's mailbox in `NAME.domain`, and the name.
    fn of_subdomain<'d>(&self, domain: &'d str) -> Option<(&Provider, &'d str)> {
        let (name, parent) = domain.split_once('.')?;
        self.of(parent).filter(|provider| provider.subdomains).map(|provider| (provider, name))
    }
}

/// Reads the data, so that no recipient has to wait for it.
pub(crate) fn prepare() {
    LazyLock::force(&PROVIDERS);
}

/// The budget form of an address.
pub(crate) fn budget_form(mailbox: &Mailbox) -> String {
    form_of(&mailbox.plain_local_part(), &mailbox.domain_key())
}

/// The same, of a local part without quotes and a domain in A-labels.
pub(crate) fn form_of(local: &str, domain: &str) -> String {
    if let Some((provider, name)) = PROVIDERS.of_subdomain(domain) {
        return format!("{}@{}", provider.name(name), provider.domains[0]);
    }
    match PROVIDERS.of(domain) {
        Some(provider) => format!("{}@{}", provider.name(local), provider.domains[0]),
        None => format!("{}@{domain}", without_tag(&lower_case(local.trim()), &[TAG])),
    }
}

impl Provider {
    fn name(&self, local: &str) -> String {
        let tags: Vec<char> = self.tags.chars().chain([TAG]).collect();
        let local = lower_case(local.trim());
        let first = self.same.chars().next();
        let plain = without_tag(&local, &tags).chars().filter(|c| !self.ignored.contains(*c));
        plain.map(|c| first.filter(|_| self.same.contains(c)).unwrap_or(c)).collect()
    }
}

/// What stands before the first tag. Where nothing does, the tag is the name.
fn without_tag<'l>(local: &'l str, tags: &[char]) -> &'l str {
    match local.find(tags) {
        None | Some(0) => local,
        Some(at) => &local[..at],
    }
}

/// Lower case, but for letters beyond ASCII that would become ASCII letters.
fn lower_case(local: &str) -> String {
    let mut folded = String::with_capacity(local.len());
    for c in local.chars() {
        if c.is_ascii() || c.to_lowercase().any(|lower| lower.is_ascii()) {
            folded.push(c.to_ascii_lowercase());
        } else {
            folded.extend(c.to_lowercase());
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(budget_form(&Mailbox::parse(text).unwrap()), expected, "{text}");
    }

    #[test]
    fn the_file_is_sound() {
        let providers = Providers::read(SOURCE).unwrap();
        for domain in providers.by_domain.keys() {
            assert_eq!(crate::mail::address::domain_key(domain).as_ref(), Some(domain));
        }
        for wrong in ["[[provider]]\ndomains = []", "[[provider]]\ndomains = [\"a.example\", \"a.example\"]", "x = 1"] {
            assert!(Providers::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quotes_case_and_tags_do_not_count() {
        for text in
            ["alice@b.example", "ALICE@B.example", "\"alice\"@b.example", "\"a\\lice\"@b.example", "alice+1@b.example"]
        {
            check(text, "alice@b.example");
        }
        check("\"alice+x y\"@b.example", "alice@b.example");
        check("\" alice \"@b.example", "alice@b.example");
        check("GRÖSSE@b.example", "grösse@b.example");
        check("+x@b.example", "+x@b.example");
        check("a.lice@b.example", "a.lice@b.example");
        check("\"a..b\"@b.example", "a..b@b.example");
    }

    #[test]
    fn look_alikes_are_others() {
        check("\u{212a}ate@b.example", "\u{212a}ate@b.example");
        check("\u{130}ris@gmail.com", "\u{130}ris@gmail.com");
    }

    #[test]
    fn providers_join_what_is_one_mailbox() {
        for text in ["j.doe@gmail.com", "\".jd..oe.\"@gmail.com", "J.D.O.E+x@GoogleMail.com", "jdoe@gmail.com"] {
            check(text, "jdoe@gmail.com");
        }
        for text in ["j-doe@pm.me", "j.doe@proton.me", "J_Doe+x@protonmail.com"] {
            check(text, "jdoe@proton.me");
        }
        check("j.doe@me.com", "j.doe@icloud.com");
        check("jdoe-shop@yahoo.com", "jdoe@yahoo.com");
        check("jdoe-shop@ymail.com", "jdoe@ymail.com");
        check("shop@jdoe.fastmail.com", "jdoe@fastmail.com");
        check("jdoe+shop@fastmail.com", "jdoe@fastmail.com");
        check("shop@sub.jdoe.fastmail.com", "shop@sub.jdoe.fastmail.com");
        for text in ["ivan.petrov@ya.ru", "ivan-petrov@yandex.com", "Ivan.Petrov+1@yandex.ru"] {
            check(text, "ivan-petrov@yandex.ru");
        }
        check("jdoe-shop@outlook.com", "jdoe-shop@outlook.com");
    }
}
