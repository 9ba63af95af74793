//! Random numbers of the operating system.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// A number that no other process draws.
pub(crate) fn random_number() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Random bytes from the operating system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> anyhow::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| anyhow::anyhow!("the operating system gives no random numbers"))
}
