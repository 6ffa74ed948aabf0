//! Addresses as people write them on a command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

/// An admin address: `127.0.0.1:9901`, `localhost:9901`, and `:9901` or `9901` for a port of this host's
/// loopback address, which is the only one that may see it unless told otherwise.
pub(crate) fn admin(text: &str) -> Result<SocketAddr, String> {
    address(text, Ipv4Addr::LOCALHOST.into(), None)
}

/// An address for scrapers from outside: without a host all addresses of this one.
pub(crate) fn metrics(text: &str) -> Result<SocketAddr, String> {
    // One socket for both families, where there are two.
    let all: IpAddr = match Path::new("/proc/net/if_inet6").exists() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    address(text, all, None)
}

/// A name server: port 53 where none is named.
pub(crate) fn name_server(text: &str) -> Result<SocketAddr, String> {
    address(text, Ipv4Addr::LOCALHOST.into(), Some(53))
}

/// `unnamed` is the host of `:PORT`, `usual` the port where there is only a host.
fn address(text: &str, unnamed: IpAddr, usual: Option<u16>) -> Result<SocketAddr, String> {
    let plain = text.strip_prefix("http://").unwrap_or(text);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    if let Ok(address) = plain.parse() {
        return Ok(address);
    }
    let bare = plain.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if let Ok(host) = bare.unwrap_or(plain).parse::<IpAddr>() {
        let port = usual.ok_or_else(|| {
            format!(
                "'{text}' has no port: write {}",
                SocketAddr::new(host, 9901)
            )
        })?;
        return Ok(SocketAddr::new(host, port));
    }
    if let Ok(port) = plain.strip_prefix(':').unwrap_or(plain).parse() {
        return Ok(SocketAddr::new(unnamed, port));
    }
    let Some((host, port)) = plain.rsplit_once(':') else {
        return Err(format!("'{text}' has no port: write HOST:PORT"));
    };
    let port: u16 = port
        .parse()
        .map_err(|_| format!("'{port}' is no port: a port is a number up to 65535"))?;
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("'{host}' is no address and no name of one: {error}"))?
        .collect();
    // As in the default: a process that listens on both families is asked over IPv4.
    let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
    first
        .copied()
        .ok_or_else(|| format!("'{host}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_read_as_people_write_it() {
        for (text, wanted) in [
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("localhost:9901", "127.0.0.1:9901"),
            (":9902", "127.0.0.1:9902"),
            ("9902", "127.0.0.1:9902"),
            ("[::1]:9901", "[::1]:9901"),
            ("http://localhost:9901/", "127.0.0.1:9901"),
            ("http://192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(admin(text).map(|it| it.to_string()), Ok(wanted.to_owned()));
        }
        for (text, said) in [
            ("127.0.0.1", "write 127.0.0.1:9901"),
            ("::1", "write [::1]:9901"),
            ("localhost", "has no port"),
            ("localhost:http", "is no port"),
            ("localhost:70000", "is no port"),
            ("no such host:1", "is no address"),
            ("", "has no port"),
        ] {
            let error = admin(text).err().unwrap_or_default();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(metrics(":9902").is_ok_and(|it| it.ip().is_unspecified()));
        let server = name_server("192.0.2.53").map(|it| it.to_string());
        assert_eq!(server, Ok("192.0.2.53:53".to_owned()));
    }
}
