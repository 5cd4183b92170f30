//! Descriptors as something to await.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be awaited until it is readable. It must keep its number for as
/// long as it lives, as owned descriptors do.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function; the types used here own what they name"
)]
pub(crate) fn readable<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
