//! Whatever a client says: replies are well formed, nothing is handed over that was not allowed at every step on the
//! way, nothing happens behind the end, and how the octets arrive makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use otp_relay_fuzz::choice;
use otp_relay_fuzz::server::{Beginning, play};

fuzz_target!(|input: &[u8]| {
    let (beginning, input) = choice(input);
    let (seed, script) = choice(input);
    let beginning = Beginning(beginning);
    let whole = play(beginning, script, 0);
    let cut = play(beginning, script, seed);
    assert!(beginning.offers_starttls() || whole == cut, "{whole:?}\n{cut:?}");
});
