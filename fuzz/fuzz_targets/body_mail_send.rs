//! Bodies at the door `mail_send`: each is answered in its shape, and what is accepted keeps the limits of every mail.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::api::at_door;
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let path = if bits & 1 == 0 { "/v3/mail/send" } else { "//v3//mail/send" };
    at_door(path, "Authorization: Bearer shop-token\r\n", body, |head, _| {
        let ids = head.lines().find_map(|line| line.strip_prefix("x-message-id: "));
        ids.into_iter().flat_map(|ids| ids.split(',')).map(str::to_owned).collect()
    });
});
