//! The system's journal: levels of lines on a stream that leads there, and messages with fields of their own over its socket
//! (the native protocol of systemd-journald).
//!
//! A message is lines `NAME=value`, and an empty line ends it. No value has a line end in it: whoever writes one sees to that.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

use crate::base::text::one_line;

/// Where the journal takes messages.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one value; the journal takes datagrams of some 200 KiB.
const VALUE_LEN_MAX: usize = 32 << 10;

/// As syslog numbers it (RFC 5424 section 6.2.1).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether what is written to standard output goes to the journal, which then looks for a level at the beginning of a line.
pub(super) fn is_stdout() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    named.is_some_and(|named| leads_to(&named, io::stdout().as_fd()))
}

/// Whether this is the stream of that device and inode.
fn leads_to(named: &str, stream: BorrowedFd<'_>) -> bool {
    let Ok(file) = stream.try_clone_to_owned().map(fs::File::from) else { return false };
    file.metadata().is_ok_and(|metadata| format!("{}:{}", metadata.dev(), metadata.ino()) == named)
}

/// Adds a field.
pub(super) fn field(message: &mut String, name: &str, value: &str) {
    let value = one_line(value);
    // Writing to a String cannot fail.
    let _ = writeln!(message, "{name}={}", &value[..value.floor_char_boundary(VALUE_LEN_MAX)]);
}

/// A name as the journal allows it: capital letters, digits and underscores, none of them first but letters.
pub(super) fn name(field: &str) -> String {
    let upper = field.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("RELAY_{}", upper.collect::<String>())
}

/// Sends messages to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Reaches the journal of this machine.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self { socket })
    }
}

impl io::Write for Journal {
    /// Takes whole messages only.
    fn write(&mut self, messages: &[u8]) -> io::Result<usize> {
        let mut rest = messages;
        while let Some(end) = memchr::memmem::find(rest, b"\n\n") {
            self.socket.send(&rest[..=end])?;
            rest = &rest[end + 2..];
        }
        Ok(messages.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_message_is_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut writer = Journal::connect_to(&path).unwrap();
        let mut text = String::new();
        for value in ["one", "two\nPRIORITY=0"] {
            field(&mut text, "MESSAGE", value);
            field(&mut text, "PRIORITY", "6");
            text.push('\n');
        }
        writer.write_all(text.as_bytes()).unwrap();
        let mut received = [0; 200];
        let mut next = || {
            let len = journal.recv(&mut received).unwrap();
            String::from_utf8(received[..len].to_vec()).unwrap()
        };
        assert_eq!(next(), "MESSAGE=one\nPRIORITY=6\n");
        assert_eq!(next(), "MESSAGE=two PRIORITY=0\nPRIORITY=6\n", "no value makes a field of its own");
    }

    #[test]
    fn the_stream_is_known_by_its_inode() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        assert!(leads_to(&format!("{}:{}", metadata.dev(), metadata.ino()), file.as_fd()));
        assert!(!leads_to("8:1", file.as_fd()));
        assert!(!leads_to("", file.as_fd()));
    }

    #[test]
    fn names_are_such_as_the_journal_takes() {
        assert_eq!(name("id"), "RELAY_ID");
        assert_eq!(name("more-recipients"), "RELAY_MORE_RECIPIENTS");
    }
}
