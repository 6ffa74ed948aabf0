//! The other gateways of a fleet, as flags name them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use fairway_config::exchange::{FleetKey, FleetMember};
use fairway_gateway::fleet::{FleetSettings, fleet_key};
use ipnet::IpNet;

use crate::outcome::WrongConfiguration;

/// The shortest key, in bytes.
const SHORTEST: usize = 16;

/// The longest key file that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// One address of another gateway: `edge-2=192.0.2.12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPeer {
    name: String,
    address: IpAddr,
}

impl FromStr for NamedPeer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("'{text}' {why}: write NAME=IP, as in edge-2=192.0.2.12");
        let (name, address) = text.split_once('=').ok_or_else(|| wrong("has no '='"))?;
        let (name, address) = (name.trim(), address.trim());
        if name.is_empty() || name.len() > 253 {
            return Err(wrong("has no name of 1 to 253 bytes before the '='"));
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'));
        let address: IpAddr = bare
            .unwrap_or(address)
            .parse()
            .map_err(|_| wrong("has no IP address behind the '='"))?;
        let address = address.to_canonical();
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || is_link_local
        {
            return Err(wrong("has an address at which no other host is"));
        }
        Ok(Self {
            name: name.to_owned(),
            address,
        })
    }
}

/// The fleet that the flags name. `own` is this gateway, which may be among the peers.
pub(crate) fn fleet(
    own: &str,
    peers: &[NamedPeer],
    key_file: Option<&Path>,
    port: u16,
) -> Result<FleetSettings, WrongConfiguration> {
    // The others do not know a gateway that is called otherwise there, so that it and one of them would own an address.
    let mistaken = peers
        .iter()
        .find(|it| it.name != own && is_of_this_host(it.address));
    if let Some(peer) = mistaken {
        return Err(WrongConfiguration(format!(
            "--peers says that {} is {}, but it is an address of this host, and this gateway's name is {own}: \
             --node-name has to be the name that --peers has for it",
            peer.address, peer.name
        )));
    }
    let mut members: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
    let mut names: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for peer in peers {
        let other = names.insert(peer.address, &peer.name);
        if let Some(other) = other.filter(|other| *other != peer.name) {
            return Err(WrongConfiguration(format!(
                "--peers says that {} is {other} and {}: each gateway has an address of its own",
                peer.address, peer.name
            )));
        }
        if peer.name != own && other.is_none() {
            let addresses = members.entry(&peer.name).or_default();
            addresses.push(peer.address.into());
        }
    }
    let key = key_file.map(key).transpose()?;
    if !members.is_empty() && key.is_none() {
        return Err(WrongConfiguration(
            "--peers takes --peers-key-file: a file with a secret that all gateways of the fleet have, as \
             `openssl rand -base64 32` prints one"
                .to_owned(),
        ));
    }
    let member = |(name, addresses): (&str, Vec<IpNet>)| FleetMember {
        name: name.into(),
        addresses,
    };
    Ok(FleetSettings {
        members: members.into_iter().map(member).collect(),
        key: key.map(Arc::new),
        port,
        ..FleetSettings::default()
    })
}

/// Whether this host has an address: the kernel reaches such a one from itself. Nothing is sent.
fn is_of_this_host(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

/// The key in a file.
fn key(path: &Path) -> Result<FleetKey, WrongConfiguration> {
    let wrong = |why: String| {
        let path = path.display();
        WrongConfiguration(format!("--peers-key-file {path}: {why}"))
    };
    let file = fs::File::open(path).map_err(|error| wrong(format!("it can't be read: {error}")))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o006 != 0 {
        return Err(wrong(
            "every user of this host may read or change it: set its mode by `chmod 0600`"
                .to_owned(),
        ));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("it can't be read: {error}")))?;
    let secret = bytes.trim_ascii();
    if secret.len() < SHORTEST {
        return Err(wrong(format!(
            "it has {} bytes, and a key has {SHORTEST} at least: `openssl rand -base64 32` prints one",
            secret.len()
        )));
    }
    Ok(fleet_key(secret))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn key_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_peer_is_a_name_and_an_address() {
        for (text, wanted) in [
            ("edge-2=192.0.2.12", Ok(("edge-2", "192.0.2.12"))),
            (" edge-2 = 192.0.2.12 ", Ok(("edge-2", "192.0.2.12"))),
            ("edge-2=2001:db8::c", Ok(("edge-2", "2001:db8::c"))),
            ("edge-2=[2001:db8::c]", Ok(("edge-2", "2001:db8::c"))),
            ("edge-2=::ffff:192.0.2.12", Ok(("edge-2", "192.0.2.12"))),
            ("192.0.2.12", Err("has no '='")),
            ("=192.0.2.12", Err("has no name")),
            ("edge-2=edge-2.example", Err("has no IP address")),
            ("edge-2=192.0.2.12:9902", Err("has no IP address")),
            ("edge-2=", Err("has no IP address")),
            ("edge-2=127.0.0.1", Err("no other host")),
            ("edge-2=0.0.0.0", Err("no other host")),
            ("edge-2=ff02::1", Err("no other host")),
            ("edge-2=fe80::1", Err("no other host")),
        ] {
            match (text.parse::<NamedPeer>(), wanted) {
                (Ok(peer), Ok((name, address))) => {
                    assert_eq!(
                        (&*peer.name, peer.address.to_string()),
                        (name, address.to_owned())
                    );
                }
                (Err(error), Err(why)) => {
                    assert!(
                        error.contains(why) && error.contains("write NAME=IP"),
                        "{error}"
                    );
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_fleet_is_its_peers_without_this_gateway_and_takes_a_key() {
        let peers = [
            "edge-1=192.0.2.11",
            "edge-2=192.0.2.12",
            "edge-2=2001:db8::c",
            "edge-2=192.0.2.12",
        ];
        let peers = peers.map(|it| it.parse().unwrap());
        let file = key_file("0123456789abcdef\n", 0o600);
        let known = fleet("edge-1", &peers, Some(file.path()), 9902).unwrap();
        assert_eq!(known.members.len(), 1);
        assert_eq!(&*known.members[0].name, "edge-2");
        let addresses: Vec<_> = known.members[0].addresses.iter().map(IpNet::addr).collect();
        assert_eq!(addresses, [peers[1].address, peers[2].address]);
        // What stands around the key does not count.
        let same = key_file("\n 0123456789abcdef", 0o640);
        let same = fleet("edge-9", &[], Some(same.path()), 9902).unwrap();
        assert!(same.members.is_empty() && same.key == known.key && same.key.is_some());
        // Alone it takes none, also where it is named.
        assert!(
            fleet("edge-1", &peers[..1], None, 9902)
                .unwrap()
                .key
                .is_none()
        );
    }

    #[test]
    fn an_address_of_this_host_is_of_no_other_gateway() {
        // Not parsed, for a peer has no loopback address.
        let peer = |name: &str, address: &str| NamedPeer {
            name: name.to_owned(),
            address: address.parse().unwrap(),
        };
        let peers = [peer("cp-1", "127.0.0.1"), peer("cp-2", "192.0.2.12")];
        let file = key_file("0123456789abcdef", 0o600);
        assert!(fleet("cp-1", &peers, Some(file.path()), 9902).is_ok());
        let error = fleet("cp-1.example.com", &peers, Some(file.path()), 9902);
        let error = error.unwrap_err().to_string();
        for words in ["127.0.0.1 is cp-1", "cp-1.example.com", "--node-name"] {
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_peers_or_their_key_is_said_with_what_to_do() {
        let peers = ["edge-2=192.0.2.12", "edge-3=192.0.2.12"].map(|it| it.parse().unwrap());
        let good = key_file("0123456789abcdef", 0o600);
        let absent = good.path().with_extension("absent");
        let short = key_file("0123456789abcde\n\n", 0o600);
        let open = key_file("0123456789abcdef", 0o604);
        for (peers, file, said) in [
            (&peers[..1], None, "takes --peers-key-file"),
            (
                &peers[..],
                Some(good.path()),
                "192.0.2.12 is edge-2 and edge-3",
            ),
            (&peers[..1], Some(&*absent), "can't be read"),
            (&peers[..1], Some(short.path()), "it has 15 bytes"),
            (&peers[..1], Some(open.path()), "chmod 0600"),
            (&peers[..0], Some(open.path()), "chmod 0600"),
        ] {
            let error = fleet("edge-1", peers, file, 9902).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
