//! What the targets share: cutting input into pieces, and drivers for the two sessions that check what a peer may rely
//! on. Everything here panics where a property does not hold.

pub mod api;
pub mod client;
pub mod command;
pub mod relay;
pub mod scram;
pub mod server;

/// Takes the first octet off, for a choice.
pub fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// Cuts `input` into pieces whose lengths follow from `seed`; zero leaves it whole.
pub fn pieces(input: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (input, u32::from(seed));
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(u32::from(seed));
        let length = if seed == 0 { rest.len() } else { rest.len().min(1 + (state >> 28) as usize) };
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    })
}

/// Octets that no UTF-8 text has, used for what happens between pieces of input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// 0xf8: the deadline passes.
    Timeout,
    /// 0xf9: the relay shuts down, or the server hangs up.
    End,
    /// 0xfa: a message is there to be delivered, if the session is ready.
    Go,
}

/// Parts of a script: text from the peer, and the mark behind it.
pub fn parts(script: &[u8]) -> impl Iterator<Item = (&[u8], Option<Mark>)> {
    script.split_inclusive(|octet| matches!(octet, 0xf8..=0xfa)).map(|part| match part.split_last() {
        Some((0xf8, text)) => (text, Some(Mark::Timeout)),
        Some((0xf9, text)) => (text, Some(Mark::End)),
        Some((0xfa, text)) => (text, Some(Mark::Go)),
        _ => (part, None),
    })
}
