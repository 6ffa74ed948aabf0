//! Endpoints that an operator keeps new connections away from for a while (`fairway drain --endpoint`, `--endpoints-on`):
//! of a gateway without a cluster. In a cluster the cluster says which endpoints get traffic.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::ClusterName;
use crate::net::EndpointAddr;
use crate::time::Timestamp;

/// The endpoints at an address: all of them, or the one at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPlace {
    ip: IpAddr,
    port: Option<u16>,
}

/// Neither `ADDRESS` nor `ADDRESS:PORT`.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is no IP address of an endpoint, and none with a port (10.0.0.5, 10.0.0.5:8080, [2001:db8::5]:8080)"
)]
pub struct NotAnEndpointPlace(String);

impl FromStr for EndpointPlace {
    type Err = NotAnEndpointPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let (ip, port) = match bare.unwrap_or(text).parse::<IpAddr>() {
            Ok(ip) => (ip, None),
            Err(_) => match text.parse::<SocketAddr>() {
                Ok(addr) if addr.port() != 0 => (addr.ip(), Some(addr.port())),
                _ => return Err(NotAnEndpointPlace(text.to_owned())),
            },
        };
        let ip = ip.to_canonical();
        Ok(Self { ip, port })
    }
}

impl fmt::Display for EndpointPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

impl Serialize for EndpointPlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndpointPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is drained. As JSON: `{"endpoint": "10.0.0.5:8080"}` or `{"endpointsOn": "node-1"}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DrainTarget {
    /// What is at a place.
    #[serde(rename = "endpoint")]
    Place(EndpointPlace),
    /// The endpoints on a node.
    #[serde(rename = "endpointsOn")]
    Node(ClusterName),
}

impl DrainTarget {
    /// Whether it is about this endpoint.
    pub fn covers(&self, addr: EndpointAddr, node: Option<&str>) -> bool {
        match self {
            Self::Place(EndpointPlace { ip, port }) => {
                addr.0.ip().to_canonical() == *ip && port.is_none_or(|it| it == addr.0.port())
            }
            Self::Node(name) => node == Some(&**name),
        }
    }
}

impl fmt::Display for DrainTarget {
    /// A part of a sentence: `endpoint 10.0.0.5`, `endpoint on node-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(EndpointPlace { ip, port: None }) => {
                write!(f, "endpoint with the address {ip}")
            }
            Self::Place(place) => write!(f, "endpoint {place}"),
            Self::Node(name) => write!(f, "endpoint on node {name}"),
        }
    }
}

/// The most that can be drained at a time. Each is looked at for each endpoint of a Service that changes.
pub const MOST: usize = 1000;

/// What no Service has as its endpoint is drained no more after so many seconds: a week. A machine that is repaired over a
/// weekend is drained still when it comes back; an address that another machine has next month is not.
pub const KEPT: i64 = 7 * 24 * 3600;

/// Everything that is drained, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainedEndpoints(BTreeMap<DrainTarget, DrainTimes>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DrainTimes {
    since: Timestamp,
    /// Since when no Service has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unlisted: Option<Timestamp>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct DrainedLine {
    #[serde(flatten)]
    target: DrainTarget,
    #[serde(flatten)]
    times: DrainTimes,
}

/// Too much is drained.
#[derive(Debug, thiserror::Error)]
#[error(
    "{MOST} entries are drained already, which is the most: end some of them by fairway drain --undo"
)]
pub struct TooManyDrained;

/// The content of the file is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DrainedFileError {
    /// It is no such list.
    #[error(transparent)]
    Text(#[from] serde_json::Error),
    /// It is too long.
    #[error("it has {0} entries, and {MOST} at most may be drained")]
    TooLong(usize),
}

/// What [`DrainedEndpoints::sweep`] has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweptDrains {
    /// What is drained no more.
    pub gone: Vec<DrainTarget>,
    /// What no Service has since now.
    pub unlisted: Vec<DrainTarget>,
    /// Whether anything is to be written to the file.
    pub is_news: bool,
}

impl DrainedEndpoints {
    /// Since when this endpoint is drained; none: it is not.
    pub fn since(&self, addr: EndpointAddr, node: Option<&str>) -> Option<Timestamp> {
        // They are few: an operator has typed each.
        let all = self.0.iter();
        let found = all.filter(|(target, _)| target.covers(addr, node));
        found.map(|(_, times)| times.since).min()
    }

    /// Notes that something is drained from now on, or no more. Returns whether it was not so before.
    ///
    /// # Errors
    /// So much is drained already that this one would be too many.
    pub fn set(
        &mut self,
        target: DrainTarget,
        is_drained: bool,
        now: Timestamp,
    ) -> Result<bool, TooManyDrained> {
        if !is_drained {
            return Ok(self.0.remove(&target).is_some());
        }
        if self.0.contains_key(&target) {
            return Ok(false);
        }
        if self.0.len() >= MOST {
            return Err(TooManyDrained);
        }
        let times = DrainTimes {
            since: now,
            unlisted: None,
        };
        self.0.insert(target, times);
        Ok(true)
    }

    /// Forgets what no Service has had as its endpoint for [`KEPT`] seconds. To be called from time to time.
    pub fn sweep(
        &mut self,
        is_listed: impl Fn(&DrainTarget) -> bool,
        now: Timestamp,
    ) -> SweptDrains {
        let mut swept = SweptDrains::default();
        self.0.retain(|target, times| {
            let is_listed = is_listed(target);
            match times.unlisted {
                Some(_) if is_listed => {
                    times.unlisted = None;
                    swept.is_news = true;
                }
                None if !is_listed => {
                    times.unlisted = Some(now);
                    swept.unlisted.push(target.clone());
                    swept.is_news = true;
                }
                Some(since) if now.0.saturating_sub(since.0) >= KEPT => {
                    swept.gone.push(target.clone());
                    swept.is_news = true;
                    return false;
                }
                _ => {}
            }
            true
        });
        swept
    }

    /// Whether nothing is drained.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is drained, in order.
    pub fn targets(&self) -> impl Iterator<Item = (&DrainTarget, Timestamp)> {
        self.0.iter().map(|(target, times)| (target, times.since))
    }

    /// Reads what [`Self::to_file`] wrote.
    ///
    /// # Errors
    /// It is something else, or has more than [`MOST`] entries.
    pub fn of_file(text: &[u8]) -> Result<Self, DrainedFileError> {
        let lines: Vec<DrainedLine> = serde_json::from_slice(text)?;
        if lines.len() > MOST {
            return Err(DrainedFileError::TooLong(lines.len()));
        }
        let lines = lines.into_iter().map(|it| (it.target, it.times));
        Ok(Self(lines.collect()))
    }

    /// The content of a file that keeps it: a list in JSON.
    pub fn to_file(&self) -> Vec<u8> {
        let lines = self.0.iter().map(|(target, times)| DrainedLine {
            target: target.clone(),
            times: *times,
        });
        let lines: Vec<DrainedLine> = lines.collect();
        // Text and numbers can always be written.
        let mut text = serde_json::to_vec_pretty(&lines).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn place(text: &str) -> DrainTarget {
        DrainTarget::Place(text.parse().unwrap())
    }

    fn at(text: &str) -> EndpointAddr {
        EndpointAddr(text.parse().unwrap())
    }

    #[test]
    fn a_place_is_read_as_people_write_it() {
        for (text, shown) in [
            ("10.0.0.5", "10.0.0.5"),
            ("10.0.0.5:8080", "10.0.0.5:8080"),
            ("2001:db8::5", "2001:db8::5"),
            ("[2001:db8::5]", "2001:db8::5"),
            ("[2001:db8::5]:80", "[2001:db8::5]:80"),
            ("::ffff:10.0.0.5", "10.0.0.5"),
            ("[::ffff:10.0.0.5]:80", "10.0.0.5:80"),
        ] {
            assert_eq!(text.parse::<EndpointPlace>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "web",
            "10.0.0.5:",
            "10.0.0.5:0",
            "10.0.0.5:70000",
            "10.0.0.0/8",
        ] {
            assert!(text.parse::<EndpointPlace>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_covers_an_endpoint() {
        for (target, addr, node, covers) in [
            (place("10.0.0.5"), "10.0.0.5:80", None, true),
            (place("10.0.0.5"), "10.0.0.6:80", None, false),
            (place("10.0.0.5:80"), "10.0.0.5:80", Some("a"), true),
            (place("10.0.0.5:80"), "10.0.0.5:81", None, false),
            (
                DrainTarget::Node("a".into()),
                "10.0.0.5:80",
                Some("a"),
                true,
            ),
            (
                DrainTarget::Node("a".into()),
                "10.0.0.5:80",
                Some("b"),
                false,
            ),
            (DrainTarget::Node("a".into()), "10.0.0.5:80", None, false),
        ] {
            assert_eq!(
                target.covers(at(addr), node),
                covers,
                "{target} {addr} {node:?}"
            );
        }
    }

    #[test]
    fn what_is_drained_comes_back_from_its_file() {
        let mut drained = DrainedEndpoints::default();
        assert!(drained.set(place("10.0.0.5"), true, Timestamp(20)).unwrap());
        assert!(
            !drained.set(place("10.0.0.5"), true, Timestamp(30)).unwrap(),
            "it is already"
        );
        assert!(
            drained
                .set(place("10.0.0.5:80"), true, Timestamp(10))
                .unwrap()
        );
        assert!(
            drained
                .set(DrainTarget::Node("a".into()), true, Timestamp(40))
                .unwrap()
        );
        let read = DrainedEndpoints::of_file(&drained.to_file()).unwrap();
        assert_eq!(read, drained);
        assert_eq!(
            read.since(at("10.0.0.5:80"), Some("a")),
            Some(Timestamp(10))
        );
        assert_eq!(read.since(at("10.0.0.5:81"), None), Some(Timestamp(20)));
        assert_eq!(
            read.since(at("10.0.0.6:80"), Some("a")),
            Some(Timestamp(40))
        );
        assert_eq!(read.since(at("10.0.0.6:80"), None), None);
        assert!(
            drained
                .set(place("10.0.0.5"), false, Timestamp(50))
                .unwrap()
        );
        assert!(
            !drained
                .set(place("10.0.0.5"), false, Timestamp(50))
                .unwrap()
        );
        for text in [
            "",
            "{}",
            "[{}]",
            r#"[{"endpoint": "web", "since": "2026-01-01T00:00:00Z"}]"#,
        ] {
            assert!(
                DrainedEndpoints::of_file(text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn so_much_can_be_drained_and_no_more() {
        let mut drained = DrainedEndpoints::default();
        let at = |n: usize| place(&format!("10.0.{}.{}", n / 250, n % 250));
        for n in 0..MOST {
            assert!(drained.set(at(n), true, Timestamp(1)).unwrap());
        }
        assert!(drained.set(at(MOST), true, Timestamp(1)).is_err());
        assert!(
            !drained.set(at(0), true, Timestamp(2)).unwrap(),
            "it is already"
        );
        let whole = drained.to_file();
        assert_eq!(DrainedEndpoints::of_file(&whole).unwrap(), drained);
        let text = String::from_utf8(whole).unwrap();
        let more = r#"[{"endpoint": "10.9.9.9", "since": "2026-01-01T00:00:00Z"},"#;
        let longer = text.replacen('[', more, 1);
        let error = DrainedEndpoints::of_file(longer.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("1001 entries"), "{error}");
        assert!(drained.set(at(0), false, Timestamp(2)).unwrap());
        assert!(drained.set(at(MOST), true, Timestamp(2)).unwrap());
    }

    #[test]
    fn what_no_service_has_for_a_week_is_drained_no_more() {
        let mut drained = DrainedEndpoints::default();
        for target in [place("10.0.0.1"), place("10.0.0.2")] {
            drained.set(target, true, Timestamp(100)).unwrap();
        }
        let first = |target: &DrainTarget| *target == place("10.0.0.1");
        let none = |_: &DrainTarget| false;
        let swept = drained.sweep(first, Timestamp(200));
        assert_eq!(swept.unlisted, [place("10.0.0.2")]);
        assert!(swept.is_news && swept.gone.is_empty());
        assert_eq!(drained.sweep(first, Timestamp(300)), SweptDrains::default());
        // A restart does not begin the week anew.
        drained = DrainedEndpoints::of_file(&drained.to_file()).unwrap();
        // It is back for a moment, and the other one goes.
        assert!(
            drained
                .sweep(|target| !first(target), Timestamp(400))
                .is_news
        );
        let swept = drained.sweep(none, Timestamp(400 + KEPT - 1));
        assert_eq!(swept.unlisted, [place("10.0.0.2")]);
        let swept = drained.sweep(none, Timestamp(400 + KEPT));
        assert_eq!(swept.gone, [place("10.0.0.1")]);
        assert_eq!(drained.since(at("10.0.0.2:80"), None), Some(Timestamp(100)));
    }
}
