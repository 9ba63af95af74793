//! Bodies at the door `emails`: each is answered in its shape, and what is accepted keeps the limits of every mail.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::api::at_door;
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let path = if bits & 1 == 0 { "/emails" } else { "/emails/batch" };
    at_door(path, "Authorization: Bearer shop-token\r\n", body, |_, json| {
        let several = json["data"].as_array().into_iter().flatten();
        several.chain([json]).filter_map(|one| one["id"].as_str()).map(str::to_owned).collect()
    });
});
