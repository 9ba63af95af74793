//! What happened, for those who read it: every change commits its events with it, and a reader is nothing but its place.

use std::sync::Arc;

use super::Answer;
use super::cursor::Cursor;
use super::latest::Latest;
use crate::event::Event;

/// Events behind a reader's place.
#[derive(Debug, Default)]
pub struct Read {
    /// Each with its place.
    pub events: Vec<(Cursor, Arc<Event>)>,
    /// Where the reader is now.
    pub at: Cursor,
    /// Events before these are gone that the reader has not read.
    pub has_missed: bool,
}

/// The events of the ledger.
pub trait Outbox: Send + Sync {
    /// Events of all nodes in an order in which nothing is ever inserted before what was read: up to `most`, or as many as
    /// are read at once from where they are stored.
    fn events(&self, after: Cursor, most: usize) -> Answer<'_, Read>;

    /// The latest of them in memory, and who reads them.
    fn latest(&self) -> &Arc<Latest>;

    /// Publishes an event that is only informative: at once, and stored with what else changes. A crash may lose it.
    fn publish(&self, event: Event);

    /// Commits an event that changes nothing else; durable when it returns `Ok`.
    fn record(&self, event: Event) -> Answer<'_, ()>;

    /// Takes a recipient's events out, wherever they are; their numbers stay. Says how many of those in memory.
    fn erase(&self, plain: Arc<str>) -> Answer<'_, usize>;

    /// All that was decided before is durable when it returns `Ok`.
    fn flush(&self) -> Answer<'_, ()>;

    /// Somebody waits for what was asked so far.
    fn hurry(&self) {}
}
