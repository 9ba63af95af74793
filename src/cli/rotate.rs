//! `dkim rotate`: the next keys of a domain, and how far the change to them is.

use std::path::Path;

use anyhow::Context as _;

use super::exit::{Exit, OrExit as _};
use super::{load_config, say};
use crate::base::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::Config;
use crate::dkim::folder::Folder;
use crate::dkim::record;
use crate::dkim::rotation::{Rotation, SHOWN_FOR};
use crate::relay::first_run::{IfThere, generate_keys};

/// Pairs that can be made for a domain on a day.
const PAIRS_A_DAY_MAX: u8 = 9;

/// For a domain in lower case, A-labels.
pub(super) fn run(file: Option<&Path>, domain: &str) -> anyhow::Result<()> {
    let config = load_config(file)?;
    let unknown = || format!("no key signs for {domain} yet; `otp-relay dkim generate {domain} otp1` makes the first");
    config.keys.of(domain).with_context(unknown).or_exit(Exit::NotFound)?;
    let folder = Folder::of(&config.data_dir);
    let mut rotation = folder.rotation(domain).map_err(anyhow::Error::msg)?;
    let now = SystemClock::default().wall();
    if rotation.next.is_none() {
        let selectors = make(&folder, domain, now)?;
        rotation.begin(selectors, now)?;
        folder.store(&rotation)?;
        folder.hand_over()?;
        say(&format!("; The next keys of {domain} are made. Publish these records on all its name servers:\n"));
    } else {
        say(&format!("; The next keys of {domain} wait. Their records:\n"));
    }
    print_next(&folder, &rotation)?;
    show(&rotation, now);
    Ok(())
}

/// Selectors carry the date, so that people see in DNS how old a key is.
fn make(folder: &Folder, domain: &str, now: Timestamp) -> anyhow::Result<Vec<String>> {
    let day = now.date().replace('-', "");
    let names = (1..=PAIRS_A_DAY_MAX).map(|number| match number {
        1 => format!("otp{day}"),
        _ => format!("otp{day}-{number}"),
    });
    let free = |selector: &String| !folder.key_file(domain, selector).exists();
    let selector = names.into_iter().find(free).context("enough keys were made for this domain today")?;
    let made = generate_keys(folder.path(), domain, &selector, IfThere::Refuse)?;
    Ok(made.into_iter().map(|file| file.selector).collect())
}

fn print_next(folder: &Folder, rotation: &Rotation) -> anyhow::Result<()> {
    let Some(next) = &rotation.next else { return Ok(()) };
    for (selector, text) in folder.records(&rotation.domain, &next.selectors).map_err(anyhow::Error::msg)? {
        say(&record::zone_line(&rotation.domain, &selector, &text));
    }
    Ok(())
}

/// What `dkim record` says beside the keys that sign.
pub(super) fn show_others(config: &Config, domain: &str) -> anyhow::Result<()> {
    let folder = Folder::of(&config.data_dir);
    let rotation = folder.rotation(domain).map_err(anyhow::Error::msg)?;
    if rotation.next.is_some() {
        say("\n; The next keys:\n");
        print_next(&folder, &rotation)?;
    }
    show(&rotation, SystemClock::default().wall());
    Ok(())
}

fn show(rotation: &Rotation, now: Timestamp) {
    let domain = &rotation.domain;
    match rotation.next.as_ref().map(|next| next.seen_since) {
        Some(None) => say(
            "\n; The relay looks at the name servers every ten minutes. It signs with these keys once all of them have shown the \
             records for a day, and needs neither a restart nor a change of its configuration.",
        ),
        Some(Some(seen)) => say(&format!(
            "\n; All name servers show them since {}; the relay signs with them from {} on if that stays so.",
            seen.rfc3339(),
            seen.plus(SHOWN_FOR).rfc3339()
        )),
        None => {}
    }
    for retired in &rotation.retired {
        for selector in &retired.selectors {
            let (at, verb) =
                (retired.removable_at(), if retired.removable_at() <= now { "may go" } else { "has to stay" });
            let until = if at <= now { String::new() } else { format!(" until {}", at.rfc3339()) };
            say(&format!("; The old record {selector}._domainkey.{domain} {verb}{until}."));
        }
    }
}
