//! Bodies at the door `email`: each is answered in its shape, and what is accepted keeps the limits of every mail.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::api::at_door;
use otp_relay_fuzz::choice;

fuzz_target!(|input: &[u8]| {
    let (bits, body) = choice(input);
    let path = if bits & 1 == 0 { "/email" } else { "/email/batch" };
    at_door(path, "X-Postmark-Server-Token: shop-token\r\n", body, |_, json| {
        let several = json.as_array().into_iter().flatten();
        several.chain([json]).filter_map(|one| one["MessageID"].as_str()).map(str::to_owned).collect()
    });
});
