//! Secrets for commands, from a file or standard input: what stands on the command line can be read by whoever lists
//! processes.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use zeroize::Zeroizing;

/// Octets of a file at most.
const LEN_MAX: u64 = 4096;

/// The first line of a file, or of standard input where it is called `-`.
///
/// # Errors
/// When it cannot be read, or there is nothing in it.
pub(super) fn read(path: &Path, what: &str) -> anyhow::Result<Zeroizing<String>> {
    let is_stdin = path == Path::new("-");
    let shown = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let unreadable = || format!("the {what} cannot be read from {shown}");
    let mut text = Zeroizing::new(String::new());
    if is_stdin {
        std::io::stdin().lock().take(LEN_MAX).read_to_string(&mut text).with_context(unreadable)?;
    } else {
        let file = std::fs::File::open(path).with_context(unreadable)?;
        file.take(LEN_MAX).read_to_string(&mut text).with_context(unreadable)?;
    }
    let line = text.lines().next().unwrap_or_default().trim();
    ensure!(!line.is_empty(), "there is no {what} in {shown}");
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code");
        let read_of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path, "code").map(|code| code.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(read_of(" 481516 \r\nmore\n").as_deref(), Ok("481516"));
        assert_eq!(read_of("481516").as_deref(), Ok("481516"));
        assert!(read_of("\n").unwrap_err().starts_with("there is no code in "));
        assert!(
            read(&folder.path().join("none"), "code").unwrap_err().to_string().starts_with("the code cannot be read")
        );
    }
}
