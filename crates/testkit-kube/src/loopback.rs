//! Loopback addresses of our own: a block of 127.0.0.0/8 that no other test process has.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Whoever listens on this port of a block's last address has the block; the kernel gives it back when he dies.
const CLAIM_PORT: u16 = 5757;

struct Block {
    second: u8,
    next: AtomicU16,
    _claim: TcpListener,
}

/// An address that nothing else in this or any other test process has, so that any port of it is free.
///
/// # Panics
/// When every block is taken, or all 65,000 addresses of ours were given out.
pub(crate) fn address() -> Ipv4Addr {
    static BLOCK: OnceLock<Block> = OnceLock::new();
    let block = BLOCK.get_or_init(|| claim().expect("a free block of loopback addresses"));
    let number = block.next.fetch_add(1, Ordering::Relaxed);
    let [third, fourth] = number.to_be_bytes();
    assert!(third < u8::MAX, "all loopback addresses were given out");
    Ipv4Addr::new(127, block.second, third, fourth)
}

/// Tries the blocks from one on that depends on the pid, so that parallel processes rarely meet. 127.0.0.0/16 is left
/// to everybody else.
fn claim() -> io::Result<Block> {
    let first = std::process::id() % 254;
    let mut seen = io::Error::other("there is none");
    for step in 0..254 {
        let second = u8::try_from((first + step) % 254 + 1).expect("1 to 254");
        match TcpListener::bind((Ipv4Addr::new(127, second, 255, 254), CLAIM_PORT)) {
            Ok(claim) => {
                return Ok(Block {
                    second,
                    next: AtomicU16::new(1),
                    _claim: claim,
                });
            }
            Err(error) => seen = error,
        }
    }
    Err(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_different_and_every_port_of_them_is_free() {
        let (one, other) = (address(), address());
        assert_ne!(one, other);
        let both = [one, other].map(|address| TcpListener::bind((address, 5758)).unwrap());
        drop(both);
    }

    #[test]
    fn two_owners_have_different_blocks() {
        let (one, other) = (claim().unwrap(), claim().unwrap());
        assert_ne!(one.second, other.second);
    }
}
