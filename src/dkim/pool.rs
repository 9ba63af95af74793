//! Threads that sign. An RSA signature costs a quarter of a millisecond of computing, too much for the threads that
//! move bytes; one thread a core takes turns by lane.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Key, Terms, signatures};
use crate::base::clock::monotonic_us;
use crate::base::lane::{Lane, LaneQueue};
use crate::base::telemetry;
use crate::mail::message::Content;
use std::time::Duration;

struct Job {
    keys: Arc<[Key]>,
    content: Content,
    terms: Terms,
    answer: oneshot::Sender<Bytes>,
}

/// A handle on the signing threads.
pub(crate) struct SigningPool {
    /// None: sign in the caller's place.
    jobs: Option<Arc<LaneQueue<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl SigningPool {
    /// Starts a thread for each core.
    pub(crate) fn start() -> std::io::Result<Self> {
        let jobs = Arc::new(LaneQueue::default());
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let threads = (0..count).map(|number| start_thread(number, jobs.clone())).collect::<Result<_, _>>()?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Signs without threads, for simulation.
    pub(crate) fn inline() -> Self {
        Self { jobs: None, threads: Vec::new() }
    }

    /// Whether the next signature has to wait for others.
    pub(crate) fn is_busy(&self) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.len() >= self.threads.len())
    }

    /// The DKIM-Signature fields of a message. As many signatures wait at once as callers do, and each caller is a
    /// connection or an attempt, whose number is bounded.
    pub(crate) async fn sign(&self, lane: Lane, keys: &Arc<[Key]>, content: &Content, terms: Terms) -> Option<Bytes> {
        let Some(jobs) = &self.jobs else { return Some(signatures(keys, content, terms)) };
        let (answer, receiver) = oneshot::channel();
        let job = Job { keys: keys.clone(), content: content.clone(), terms, answer };
        jobs.push(lane, job).ok()?;
        receiver.await.ok()
    }
}

fn start_thread(number: usize, jobs: Arc<LaneQueue<Job>>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("sign-{number}")).spawn(move || {
        while let Some(job) = jobs.wait() {
            // Whoever asked may have gone away.
            let since = monotonic_us();
            let signed = signatures(&job.keys, &job.content, job.terms);
            telemetry::SIGN.add(Duration::from_micros(u64::try_from(monotonic_us() - since).unwrap_or_default()));
            let _ = job.answer.send(signed);
        }
    })
}

impl Drop for SigningPool {
    fn drop(&mut self) {
        if let Some(jobs) = &self.jobs {
            jobs.close();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a signing thread panicked");
            }
        }
    }
}
