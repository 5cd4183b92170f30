//! The address to listen at: `0.0.0.0:5758`, `:5758`, `localhost:5758`, `[::1]:5758`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host, possibly none, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddr {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// Every address of this machine, as in `:5758`.
    Any,
    Ip(IpAddr),
    Name(String),
}

/// Why a text is no address to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListenAddr {
    /// There is no `:PORT` at the end.
    #[error("has no port; write HOST:PORT, such as 0.0.0.0:5758, :5758 or [::]:5758")]
    NoPort,
    /// The port is not a number from 0 to 65535.
    #[error("has no valid port; write HOST:PORT with a port from 0 to 65535, such as 0.0.0.0:5758")]
    Port,
    /// An IPv6 address needs brackets.
    #[error("has too many colons; write an IPv6 address in brackets, such as [::1]:5758")]
    Brackets,
    /// The host is no IP address and no host name.
    #[error(
        "has no valid host; write an IP address or a host name before the port, such as 0.0.0.0:5758"
    )]
    Host,
}

impl FromStr for ListenAddr {
    type Err = InvalidListenAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidListenAddr::NoPort)?;
        let host = parse_host(host)?;
        let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = plain
            .then(|| port.parse().ok())
            .flatten()
            .ok_or(InvalidListenAddr::Port)?;
        Ok(Self { host, port })
    }
}

fn parse_host(host: &str) -> Result<Host, InvalidListenAddr> {
    if host.is_empty() {
        return Ok(Host::Any);
    }
    if let Some(inside) = host.strip_prefix('[') {
        let inside = inside
            .strip_suffix(']')
            .ok_or(InvalidListenAddr::Brackets)?;
        let ip: Ipv6Addr = inside.parse().map_err(|_| InvalidListenAddr::Host)?;
        return Ok(Host::Ip(ip.into()));
    }
    if host.contains(':') {
        return Err(InvalidListenAddr::Brackets);
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    // What can only be a mistyped IPv4 address is not looked up in DNS.
    let digits_only = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let allowed = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if digits_only || !allowed || host.len() > 253 {
        return Err(InvalidListenAddr::Host);
    }
    Ok(Host::Name(host.to_owned()))
}

impl ListenAddr {
    /// The socket addresses to try, in order, until one can be bound. Looks a name up, and blocks
    /// for that.
    ///
    /// Without a host that is all of IPv6 and IPv4, or IPv4 alone where the kernel has no IPv6.
    /// A name gives its IPv4 addresses first, as in Go.
    pub fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match &self.host {
            Host::Any => Ok(vec![
                at(Ipv6Addr::UNSPECIFIED.into()),
                at(Ipv4Addr::UNSPECIFIED.into()),
            ]),
            Host::Ip(ip) => Ok(vec![at(*ip)]),
            Host::Name(name) => {
                let mut found: Vec<_> = (name.as_str(), self.port).to_socket_addrs()?.collect();
                found.sort_by_key(SocketAddr::is_ipv6);
                Ok(found)
            }
        }
    }

    /// The port; 0 lets the kernel choose.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => write!(f, ":{}", self.port),
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_the_same() {
        for text in [
            "0.0.0.0:5758",
            ":5758",
            "localhost:5758",
            "[::]:5758",
            "[::1]:0",
            "my-host.example:1",
        ] {
            let addr: ListenAddr = text.parse().unwrap();
            assert_eq!(addr.to_string(), text);
        }
    }

    #[test]
    fn no_host_means_every_address() {
        let addr: ListenAddr = ":5758".parse().unwrap();
        let all: Vec<_> = addr
            .candidates()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(all, ["[::]:5758", "0.0.0.0:5758"]);
    }

    #[test]
    fn localhost_prefers_ipv4() {
        let addr: ListenAddr = "localhost:5758".parse().unwrap();
        assert_eq!(addr.candidates().unwrap()[0].to_string(), "127.0.0.1:5758");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        use InvalidListenAddr::{Brackets, Host, NoPort, Port};
        for (text, error) in [
            ("", NoPort),
            ("5758", NoPort),
            ("localhost", NoPort),
            ("0.0.0.0:", Port),
            (":65536", Port),
            (":+1", Port),
            (":http", Port),
            ("::1", Brackets),
            ("::1:5758", Brackets),
            ("[::1:5758", Brackets),
            ("[127.0.0.1]:1", Host),
            ("1.2.3:80", Host),
            ("256.1.1.1:80", Host),
            ("a b:80", Host),
            ("http://x:80", Brackets),
        ] {
            assert_eq!(text.parse::<ListenAddr>(), Err(error), "{text}");
        }
    }
}
