//! The thread that does the manager's disk work, so that a slow disk never delays an answer
//! that needs none.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::{Change, Store};

/// Enough for path names and one level of directory walking.
const STACK_BYTES: usize = 128 * 1024;

/// A change that was carried out as a whole, or not at all.
pub(crate) type Carried = (Change, io::Result<()>);

/// Carries out one batch of changes at a time.
#[derive(Debug)]
pub(crate) struct Worker {
    batches: SyncSender<Vec<Change>>,
    results: mpsc::Receiver<Vec<Carried>>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(store: Store) -> io::Result<Self> {
        let (batches, work) = sync_channel::<Vec<Change>>(1);
        let (done, results) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                while let Ok(changes) = work.recv() {
                    let results = store.carry_out(&changes);
                    let carried = changes.into_iter().zip(results).collect();
                    if done.blocking_send(carried).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            batches,
            results,
            thread,
        })
    }

    /// Hands a batch over. There must be none under way.
    pub(crate) fn submit(&self, changes: Vec<Change>) {
        if self.batches.send(changes).is_err() {
            // Only if the thread has panicked, and then the program is over.
            tracing::error!("store.thread_gone");
        }
    }

    /// The answers to the batch under way. Cancel safe.
    pub(crate) async fn done(&mut self) -> Vec<Carried> {
        match self.results.recv().await {
            Some(results) => results,
            // The thread has panicked: with `panic=abort` this is never reached.
            None => std::future::pending().await,
        }
    }

    /// Ends the thread. There must be no batch under way.
    pub(crate) fn stop(self) {
        drop(self.batches);
        if self.thread.join().is_err() {
            tracing::error!("store.thread_panicked");
        }
    }
}
