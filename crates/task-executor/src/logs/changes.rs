//! Tells when something in a directory has changed.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// Pause between looks where the kernel has no watches left (`fs.inotify.max_user_instances`).
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Something may have changed.
    Change,
    /// Nothing will change any more.
    End,
}

/// The changes of one directory and of the files in it.
#[derive(Debug)]
pub(super) enum Changes {
    Watched(AsyncFd<Descriptor>),
    Polled,
}

/// [`Inotify`] with the trait that [`AsyncFd`] asks for.
#[derive(Debug)]
pub(super) struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// Begins to watch `dir`. Where that is impossible, to look again and again.
    pub(super) fn of(dir: &Path) -> Self {
        match Self::watched(dir) {
            Ok(watched) => Self::Watched(watched),
            Err(error) => {
                tracing::debug!(%error, "log directory cannot be watched; looking at intervals");
                Self::Polled
            }
        }
    }

    fn watched(dir: &Path) -> std::io::Result<AsyncFd<Descriptor>> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(dir, events)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a `Descriptor` keeps its one descriptor open and returns no other"
        )]
        AsyncFd::with_interest(Descriptor(inotify), Interest::READABLE)
    }

    /// Waits for the next change. Cancel safe: an event that is not taken stays in the kernel.
    pub(super) async fn next(&mut self) -> Seen {
        match self {
            Self::Watched(descriptor) => next_event(descriptor).await,
            Self::Polled => {
                sleep(POLL_INTERVAL).await;
                Seen::Change
            }
        }
    }
}

async fn next_event(descriptor: &AsyncFd<Descriptor>) -> Seen {
    loop {
        let Ok(mut ready) = descriptor.readable().await else {
            return Seen::End;
        };
        match ready.get_inner().0.read_events() {
            Ok(events) => {
                // The directory is gone or has moved away: no further event would come.
                let end = AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_IGNORED;
                let ended = events.iter().any(|event| event.mask.intersects(end));
                return if ended { Seen::End } else { Seen::Change };
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return Seen::End,
        }
    }
}
