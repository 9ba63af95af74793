//! The one number for the form of everything in the data directory: the file `format`, the database and the stored traces carry it.
//!
//! 1: what version 0.1 wrote, which carried no number. 2: this number, and a version before each stored suppression.
//! Whoever changes a stored form adds one here, keeps what reads the form before, and a folder of it under `tests/data`.

/// What is written now.
pub(crate) const FORMAT: u32 = 2;
/// What carries no number.
pub(crate) const FIRST: u32 = 1;

/// Something that a newer program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has format {0}, which a newer otp-relay wrote; this one reads formats up to {FORMAT}: start the newer version again, or \
     restore a backup into a new data_dir"
)]
pub struct Newer(pub u32);

/// The number in this text, a line of its own; none where it is no number.
pub(crate) fn parse(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

pub(crate) fn text() -> String {
    format!("{FORMAT}\n")
}

/// Whether this program reads what carries this number.
///
/// # Errors
/// Where it is newer, or no number at all: only what is not understood is newer than everything.
pub(crate) fn check(found: Option<&[u8]>) -> Result<u32, Newer> {
    let number = found.map_or(Some(FIRST), parse).unwrap_or(u32::MAX);
    if number <= FORMAT { Ok(number) } else { Err(Newer(number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_is_refused() {
        assert_eq!(check(None), Ok(FIRST));
        assert_eq!(check(Some(text().as_bytes())), Ok(FORMAT));
        assert_eq!(check(Some(b"1\n")), Ok(1));
        let newer = check(Some(format!("{}\n", FORMAT + 1).as_bytes())).unwrap_err();
        assert!(newer.to_string().contains(&format!("format {}, which a newer otp-relay wrote", FORMAT + 1)));
        assert!(check(Some(b"what is this\n")).is_err());
    }
}
