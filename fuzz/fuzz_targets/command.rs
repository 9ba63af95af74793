//! A line that is accepted has no control characters, and its command printed is read as the same command; addresses
//! survive printing and the way to ASCII.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay::testing::smtp::command::Command;
use otp_relay_fuzz::command::{check_mailbox, mailbox, print};

fuzz_target!(|line: &[u8]| {
    let Ok(command) = Command::parse(line) else { return };
    assert!(!line.iter().any(u8::is_ascii_control));
    let printed = print(&command);
    assert_eq!(Command::parse(printed.as_bytes()), Ok(command.clone()), "{printed}");
    mailbox(&command).into_iter().for_each(check_mailbox);
});
