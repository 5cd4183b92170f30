//! The wish to shut down, for everything that would otherwise go on for long.

use tokio::sync::watch;

/// Set once by the server; awaited by connections, long polls and streams.
#[derive(Debug)]
pub(super) struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Wishes for it.
    pub(super) fn request(&self) {
        self.0.send_replace(true);
    }

    /// Waits for the wish. Cancel safe.
    pub(super) fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut wish = self.0.subscribe();
        async move {
            // The sender's end counts as the wish.
            let _ended = wish.wait_for(|wished| *wished).await;
        }
    }
}
