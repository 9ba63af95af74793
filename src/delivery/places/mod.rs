//! Places for outgoing sessions, shared out by registrable domain and by network, so that nobody who chooses recipients,
//! domains and hosts can take the places of others.
//!
//! Each session counts for the registrable domain of the recipient, for that of its first host's name, and for the
//! network of its address. Who may have one more is decided by `destination::shares`. Where no place is left, a session
//! gives way: one without work, else the oldest of whoever holds most.

mod applicant;
mod known_hosts;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::destination::shares::{Full, Shares, Standing};
use applicant::network;
pub(super) use applicant::{Applicant, Holder};
use table::{Table, Work};

#[derive(Debug)]
pub(super) struct Places {
    table: Mutex<Table>,
    /// Further connections in races for a session.
    beside: Mutex<Shares<Holder>>,
}

/// A session's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Tenure {
    held: HeldPlace,
}

/// What a session says of itself to the places.
#[derive(Debug, Clone)]
pub(super) struct HeldPlace {
    places: Arc<Places>,
    id: u64,
    leaves: CancellationToken,
}

impl Places {
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(Table::new(all)), beside: Mutex::new(Shares::new(all / 2)) })
    }

    pub(super) fn used(&self) -> usize {
        self.table.lock().shares.used()
    }

    /// A place for a session that is about to be opened.
    pub(super) fn take(self: &Arc<Self>, applicant: &Applicant, now: Instant) -> Result<Tenure, Full> {
        let leaves = CancellationToken::new();
        let id = self.table.lock().take(applicant, leaves.clone(), now)?;
        Ok(Tenure { held: HeldPlace { places: self.clone(), id, leaves } })
    }

    /// Whether the hosts are known to take mail.
    pub(super) fn knows(&self, applicant: &Applicant, now: Instant) -> bool {
        self.table.lock().standing(applicant, Some(now)) == Standing::Known
    }

    /// Has a session give way to one that found no place for this reason, if there is one that can.
    pub(super) fn make_room(&self, applicant: &Applicant, why: Full, now: Instant) {
        let leaves = self.table.lock().give_way(applicant, why, now);
        if let Some(leaves) = leaves {
            leaves.cancel();
        }
    }

    /// Room for one more connection beside those of a session that is being opened.
    pub(super) fn beside(self: &Arc<Self>, applicant: &Applicant) -> Option<Beside> {
        let standing = self.table.lock().standing(applicant, None);
        self.beside.lock().take(&applicant.holders, standing).ok()?;
        Some(Beside { places: self.clone(), holders: applicant.holders.clone(), standing })
    }
}

/// Room for a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Beside {
    places: Arc<Places>,
    holders: Vec<Holder>,
    standing: Standing,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.places.beside.lock().give_back(&self.holders, self.standing);
    }
}

impl Tenure {
    /// To be told what the session does.
    pub(super) fn held(&self) -> &HeldPlace {
        &self.held
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.held.places.table.lock().give_back(self.held.id);
    }
}

impl HeldPlace {
    /// It begins to carry an entry. If it was to go while it had none, it stays: the entry came first.
    pub(super) fn works(&mut self, now: Instant) {
        if self.leaves.is_cancelled() {
            self.leaves = CancellationToken::new();
            self.places.table.lock().stays(self.id, &self.leaves);
        }
        self.does(Work::Works(now));
    }

    /// The content of its entry is out.
    pub(super) fn sent(&self, now: Instant) {
        self.does(Work::Sent(now));
    }

    /// It waits for an entry.
    pub(super) fn rests(&self, now: Instant) {
        self.does(Work::Rests(now));
    }

    /// It is with a host at this address.
    pub(super) fn is_at(&self, address: IpAddr) {
        self.places.table.lock().moved(self.id, network(address));
    }

    /// Its host took a message.
    pub(super) fn took_mail(&self, now: Instant) {
        self.places.table.lock().took_mail(self.id, now);
    }

    /// What it counts for.
    pub(super) fn holders(&self) -> Vec<Holder> {
        self.places.table.lock().holders(self.id)
    }

    pub(super) fn go(&self) {
        self.leaves.cancel();
    }

    /// Returns when it has to give way.
    pub(super) async fn gives_way(&self) {
        self.leaves.cancelled().await;
    }

    /// Whether it has to give way.
    pub(super) fn has_to_go(&self) -> bool {
        self.leaves.is_cancelled()
    }

    fn does(&self, work: Work) {
        self.places.table.lock().does(self.id, work);
    }
}
