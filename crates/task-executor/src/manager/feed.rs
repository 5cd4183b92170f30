//! What has changed, for those who watch: numbered, with the recent past kept.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::broadcast;

use super::handle::{Change, ChangeKind, Gone, HISTORY_MAX, Subscription};

/// Bytes of objects that the history may hold: it must not outgrow the agent itself.
const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// The stream of changes.
#[derive(Debug)]
pub(super) struct Feed {
    version: u64,
    history: VecDeque<Change>,
    bytes: usize,
    events: broadcast::Sender<Change>,
}

impl Feed {
    /// A feed whose first change will be `version + 1`.
    pub(super) fn new(version: u64) -> Self {
        Self {
            version,
            history: VecDeque::new(),
            bytes: 0,
            events: broadcast::channel(HISTORY_MAX / 4).0,
        }
    }

    /// The version of now.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Adds a change.
    pub(super) fn publish(&mut self, kind: ChangeKind, object: Bytes) {
        self.version += 1;
        let change = Change {
            kind,
            version: self.version,
            object,
        };
        self.bytes += change.object.len();
        self.history.push_back(change.clone());
        while self.history.len() > HISTORY_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some(old) = self.history.pop_front() else {
                break;
            };
            self.bytes -= old.object.len();
        }
        // Without a watcher there is nobody to tell.
        let _ = self.events.send(change);
    }

    /// Opens a watch: from `since`, or without one from the tasks of now.
    pub(super) fn watch(
        &self,
        since: Option<u64>,
        now: impl Iterator<Item = Bytes>,
    ) -> Result<Subscription, Gone> {
        let version = self.version;
        let backlog = match since {
            None => now
                .map(|object| Change {
                    kind: ChangeKind::Added,
                    version,
                    object,
                })
                .collect(),
            Some(asked) => self.after(asked)?,
        };
        Ok(Subscription {
            backlog,
            version,
            live: self.events.subscribe(),
        })
    }

    fn after(&self, asked: u64) -> Result<Vec<Change>, Gone> {
        let first = self.history.front();
        let oldest = first.map_or(self.version, |change| change.version - 1);
        if asked < oldest || asked > self.version {
            return Err(Gone {
                asked,
                oldest,
                newest: self.version,
            });
        }
        let late = self.history.iter().filter(|c| c.version > asked);
        Ok(late.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(changes: usize, size: usize) -> Feed {
        let mut feed = Feed::new(100);
        for _ in 0..changes {
            feed.publish(ChangeKind::Modified, Bytes::from(vec![b'x'; size]));
        }
        feed
    }

    #[test]
    fn a_watch_starts_where_it_was_left_and_a_version_too_old_is_gone() {
        let feed = feed(3, 1);
        let from = |since| feed.watch(Some(since), std::iter::empty());
        assert_eq!(from(100).expect("is kept").backlog.len(), 3);
        assert_eq!(from(103).expect("is kept").backlog.len(), 0);
        assert_eq!(
            (from(99).unwrap_err().oldest, from(104).unwrap_err().newest),
            (100, 103)
        );
    }

    #[test]
    fn the_history_is_bounded_in_number_and_in_bytes() {
        assert_eq!(feed(HISTORY_MAX + 5, 1).history.len(), HISTORY_MAX);
        let large = feed(20, HISTORY_BYTES_MAX / 4);
        assert_eq!(large.history.len(), 4);
        assert!(large.watch(Some(100), std::iter::empty()).is_err());
    }
}
