//! `user`: hashes for the configuration. Passwords are typed unseen or read from standard input, so that they stand in no history.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use argon2::PasswordHasher as _;
use clap::Subcommand;

use super::{complain, say};
use crate::relay::data_dir::new_token;
use crate::relay::first_run::{hash_password, new_password};
use crate::smtp::sasl::PASSWORD_MAX;

/// Subcommands of `user`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a password, typed unseen or from standard input, and print its hash
    Hash {
        /// Make a password, and print it once
        #[arg(long)]
        generate: bool,
        /// The Argon2id form, which cannot serve SCRAM
        #[arg(long)]
        argon2id: bool,
        /// Make a token for the HTTP API, and print it once
        #[arg(long, conflicts_with_all = ["generate", "argon2id"])]
        token: bool,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Hash { generate, argon2id, token } = command;
    if *token {
        return token_hash();
    }
    let password = if *generate {
        let (password, _) = new_password()?;
        complain(&format!("password: {password}"));
        zeroize::Zeroizing::new(password)
    } else {
        read_password()?
    };
    say(&if *argon2id { argon2id_hash(&password)? } else { scram_hash(&password)? });
    Ok(ExitCode::SUCCESS)
}

/// From whoever sits at the terminal, unseen and twice; otherwise from standard input.
fn read_password() -> anyhow::Result<zeroize::Zeroizing<String>> {
    let mut line = zeroize::Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        let ask = |prompt: &str| rpassword::prompt_password(prompt).map(zeroize::Zeroizing::new);
        line = ask("Password (not shown): ").context("the terminal cannot be read")?;
        let again = ask("The same again: ").context("the terminal cannot be read")?;
        ensure!(*line == *again, "the two are not the same; nothing was made");
    } else {
        std::io::stdin().lock().read_line(&mut line).context("standard input cannot be read")?;
    }
    let password = zeroize::Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned());
    ensure!(!password.is_empty(), "there is no password; type one, give one on standard input, or say --generate");
    ensure!(password.len() <= PASSWORD_MAX, "a password has at most {PASSWORD_MAX} bytes");
    if password.contains(|c: char| c.is_control()) {
        bail!("a password has no control characters");
    }
    Ok(password)
}

/// SCRAM clients normalize what is not ASCII, each in its own way; better not to depend on it.
fn scram_hash(password: &str) -> anyhow::Result<String> {
    ensure!(password.is_ascii(), "a password for SCRAM is ASCII here; --argon2id takes any");
    Ok(hash_password(password)?.to_text())
}

fn argon2id_hash(password: &str) -> anyhow::Result<String> {
    let hash = argon2::Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| anyhow::anyhow!("Argon2id failed: {error}"))?;
    Ok(hash.to_string())
}

/// A token is random enough that a plain hash of it can be kept.
fn token_hash() -> anyhow::Result<ExitCode> {
    let token = new_token()?;
    complain(&format!("token: {token}"));
    say(&crate::accounts::user::token_hash(&token));
    Ok(ExitCode::SUCCESS)
}
