//! Locks of files. One that was just given back may be held a moment longer: by the engine's threads, or by a process that is being
//! started, which has all open files of its parent until its program runs.

use std::fs::{File, TryLockError};
use std::io;
use std::time::Duration;

/// How long to wait for a lock, and between two looks.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// Takes a file's lock; false where it stays locked.
pub(crate) fn wait_for_lock(file: &File) -> io::Result<bool> {
    match patiently(|| file.try_lock(), |error| matches!(error, TryLockError::WouldBlock)) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Does something again while a lock keeps it from being done.
///
/// # Errors
/// Any other at once, and that one when it stays locked.
pub(crate) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_locked: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut left = PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_locked(&error) && !left.is_zero() => {
                std::thread::sleep(PAUSE);
                left = left.saturating_sub(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_nothing_else() {
        let after = |locked: u32, fault: Result<(), &'static str>| {
            let mut attempts = 0;
            let attempt = || {
                attempts += 1;
                if attempts <= locked { Err("locked") } else { fault }
            };
            (patiently(attempt, |error| *error == "locked"), attempts)
        };
        assert_eq!(after(0, Ok(())), (Ok(()), 1));
        assert_eq!(after(2, Ok(())), (Ok(()), 3));
        assert_eq!(after(1, Err("no such disk")), (Err("no such disk"), 2));
        assert_eq!(after(u32::MAX, Ok(())), (Err("locked"), 51));
    }
}
