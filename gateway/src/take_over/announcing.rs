//! Sessions with routers and the routes of the kernel, as both sides speak of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use fairway_gateway_core::bgp::routes::AnnouncedRoutes;

use super::channel::{Channel, ChannelError, PATIENCE};
use super::wire::HandoverMessage;
use crate::bgp::handed::{self, BfdPlace, FrozenRouter, FrozenRouters, HandedRouter, HandedRoutes};
use crate::control::HandoverRequest;
use crate::gateway::Gateway;

/// How long the successor may take to take a session. Nothing is said to routers meanwhile, and some of them wait for
/// three seconds.
const TAKEN: Duration = Duration::from_secs(1);

/// How long it may take from the commit until it announces.
const BEGUN: Duration = Duration::from_secs(5);

/// What a successor goes on with.
pub(super) struct HandedAnnouncing {
    /// The names of the sessions with routers.
    routers: BTreeSet<String>,
    /// The routes of the kernel.
    has_routes: bool,
}

/// Offers sessions with routers and the routes of the kernel, which this process leaves alone from now on. Returns the
/// what of it the successor knows how to go on with.
///
/// # Errors
/// The successor does not answer, or a part of this process does not.
pub(super) fn hand_over(
    channel: &mut Channel,
    gateway: &Gateway,
) -> Result<HandedAnnouncing, ChannelError> {
    let frozen: FrozenRouters = ask(gateway, HandoverRequest::FreezeRouters)?;
    channel.set_patience(TAKEN)?;
    let mut routers = BTreeSet::new();
    if !frozen.bfd.is_empty() {
        let (places, sockets): (Vec<_>, Vec<_>) = frozen.bfd.into_iter().unzip();
        let message = HandoverMessage::BfdPlaces { places };
        let sockets: Vec<_> = sockets.iter().map(OwnedFd::as_fd).collect();
        channel.send(&message, false, &[], &sockets)?;
    }
    for router in frozen.routers {
        let name = router.says.name.clone();
        if offer(channel, router)? {
            routers.insert(name);
        }
    }
    let keeper: Option<UnixStream> = ask(gateway, HandoverRequest::FreezeRoutes)?;
    if let Some(keeper) = &keeper {
        let message = HandoverMessage::KernelRoutes {};
        channel.send(&message, false, &[], &[keeper.as_fd()])?;
    }
    channel.set_patience(PATIENCE)?;
    Ok(HandedAnnouncing {
        routers,
        has_routes: keeper.is_some(),
    })
}

/// The successor has these sessions, and the routes. BFD and the keeper's process go on here until they go on there, or the
/// successor has ended.
pub(super) fn leave(channel: &mut Channel, gateway: &Gateway, handed: HandedAnnouncing) {
    let HandedAnnouncing {
        routers,
        has_routes,
    } = handed;
    if (has_routes || !routers.is_empty()) && channel.set_patience(BEGUN).is_ok() {
        // Whatever it says, or that it says nothing: it has the lock.
        let _ = channel.receive();
    }
    gateway.hand_over(HandoverRequest::Leave(routers));
}

/// Has the gateway do its part, and waits for its answer.
fn ask<T>(
    gateway: &Gateway,
    request: impl FnOnce(Sender<T>) -> HandoverRequest,
) -> Result<T, ChannelError> {
    let (reply, answer) = mpsc::channel();
    gateway.hand_over(request(reply));
    let answer = answer.recv_timeout(PATIENCE);
    answer.map_err(|_| std::io::Error::other("what announces does not answer").into())
}

/// Offers a session. Returns whether the successor knows how to go on with it.
fn offer(channel: &mut Channel, router: FrozenRouter) -> Result<bool, ChannelError> {
    for routes in handed::parts(&router.told) {
        channel.say(&HandoverMessage::RouterRoutes {
            router: router.says.name.clone(),
            routes,
        })?;
    }
    let bytes = [router.incoming, router.outgoing].concat();
    let mut descriptors: Vec<BorrowedFd<'_>> = vec![router.connection.as_fd()];
    descriptors.extend(router.bfd.as_ref().map(OwnedFd::as_fd));
    let message = HandoverMessage::Router(Box::new(router.says));
    channel.send(&message, true, &bytes, &descriptors)?;
    Ok(channel.taken(1)? == [true])
}

/// What the successor has of it so far.
#[derive(Debug, Default)]
pub(super) struct OfferedAnnouncing {
    /// What routers were told whose session has not come yet.
    told: BTreeMap<String, AnnouncedRoutes>,
    pub(super) routers: FrozenRouters,
    /// The socket of the keeper of kernel routes.
    pub(super) keeper: Option<UnixStream>,
}

impl OfferedAnnouncing {
    pub(super) fn add_routes(&mut self, router: String, routes: Vec<HandedRoutes>) {
        handed::add(self.told.entry(router).or_default(), routes);
    }

    /// Takes a session. Returns whether all of it has come.
    pub(super) fn add_router(
        &mut self,
        says: HandedRouter,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> bool {
        let told = self.told.remove(&says.name).unwrap_or_default();
        let mut descriptors = descriptors.into_iter();
        let parts = bytes.split_at_checked(says.incoming as usize);
        let Some((connection, (incoming, outgoing))) = descriptors.next().zip(parts) else {
            return false;
        };
        if outgoing.len() != says.outgoing as usize {
            return false;
        }
        self.routers.routers.push(FrozenRouter {
            says,
            told,
            incoming: incoming.to_vec(),
            outgoing: outgoing.to_vec(),
            connection,
            bfd: descriptors.next(),
        });
        true
    }

    pub(super) fn add_bfd(&mut self, places: Vec<BfdPlace>, sockets: Vec<OwnedFd>) {
        self.routers.bfd = places.into_iter().zip(sockets).collect();
    }

    pub(super) fn add_keeper(&mut self, descriptors: Vec<OwnedFd>) {
        self.keeper = descriptors.into_iter().next().map(UnixStream::from);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    use fairway_gateway_core::bgp::routes::RouteAttributes;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    /// A session whose router is told 3,000 prefixes, and the router's end.
    fn frozen() -> (FrozenRouter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (router, _) = listener.accept().unwrap();
        let route = |n: u32| {
            Arc::new(RouteAttributes {
                communities: (0..n % 200).collect(),
                prepended: u8::try_from(n % 2).unwrap(),
                ..RouteAttributes::default()
            })
        };
        let prefixes = (0..3_000_u32).map(|n| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            (std::net::IpAddr::from(address).into(), route(n % 1000))
        });
        let frozen = FrozenRouter {
            says: HandedRouter {
                name: "tor".to_owned(),
                incoming: 3,
                outgoing: 5,
                ..HandedRouter::default()
            },
            told: prefixes.collect(),
            incoming: b"abc".to_vec(),
            outgoing: b"defgh".to_vec(),
            connection: connection.into(),
            bfd: None,
        };
        (frozen, router)
    }

    #[test]
    fn a_session_goes_over_with_its_connection_its_bytes_and_what_the_router_was_told() {
        let (mut one, mut other) = pair();
        let (frozen, mut router) = frozen();
        let (says, told) = (frozen.says.clone(), frozen.told.clone());
        let offering = std::thread::spawn(move || offer(&mut one, frozen).unwrap());
        let mut offered = OfferedAnnouncing::default();
        let mut parts = 0;
        loop {
            let whole = other.receive().unwrap();
            match whole.message.unwrap() {
                HandoverMessage::RouterRoutes { router, routes } => {
                    offered.add_routes(router, routes);
                    parts += 1;
                }
                HandoverMessage::Router(says) => {
                    let taken = offered.add_router(*says, &whole.bytes, whole.descriptors);
                    let taken = vec![taken];
                    other.say(&HandoverMessage::Taken { taken }).unwrap();
                    break;
                }
                message => panic!("{message:?}"),
            }
        }
        assert!(offering.join().unwrap(), "taken");
        assert!(parts > 1, "{parts}");
        let taken = offered.routers.routers.pop().unwrap();
        assert_eq!((taken.says, taken.told), (says, told));
        assert_eq!(
            (&*taken.incoming, &*taken.outgoing),
            (&b"abc"[..], &b"defgh"[..])
        );
        let mut connection = TcpStream::from(taken.connection);
        connection.write_all(b"x").unwrap();
        let mut byte = [0];
        router.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        // The other process has its descriptor no more: the connection ends with this one.
        drop(connection);
        assert_eq!(router.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn a_version_that_knows_no_sessions_has_none_of_them() {
        let (mut one, mut other) = pair();
        let (frozen, _router) = frozen();
        let offering = std::thread::spawn(move || offer(&mut one, frozen).unwrap());
        loop {
            // As any kind that is not known.
            if other.receive().unwrap().asks {
                let taken = Vec::new();
                other.say(&HandoverMessage::Taken { taken }).unwrap();
                break;
            }
        }
        assert!(!offering.join().unwrap(), "it was not taken");
    }

    #[test]
    fn what_is_not_whole_is_not_taken() {
        let (frozen, _router) = frozen();
        let mut offered = OfferedAnnouncing::default();
        assert!(!offered.add_router(frozen.says.clone(), b"abcdefgh", Vec::new()));
        let descriptor = || frozen.connection.try_clone().unwrap();
        for bytes in [&b"ab"[..], b"abcdefg", b"abcdefghi"] {
            assert!(!offered.add_router(frozen.says.clone(), bytes, vec![descriptor()]));
        }
        assert!(offered.routers.routers.is_empty());
        assert!(offered.add_router(frozen.says.clone(), b"abcdefgh", vec![descriptor()]));
    }
}
