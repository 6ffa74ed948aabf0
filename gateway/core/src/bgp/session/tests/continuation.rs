//! A session goes on in another process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::table::Table;
use super::*;

/// Another process goes on with it.
fn handed(session: &BgpSession, now: BootTime) -> BgpSession {
    let settings = session.settings.clone();
    BgpSession::go_on(settings, session.continuation().unwrap(), 77, now)
}

#[test]
fn the_difference_alone_is_told() {
    let (mut session, mut table) = (external(), Table::default());
    session.set_wanted(at(4), &wanted(&["203.0.113.1/32", "203.0.113.2/32"]));
    flush(&mut session, &mut table, at(4));
    assert_eq!((table.updates, session.rib_out().told()), (1, 2));
    let mut session = handed(&session, at(1000));
    let same = wanted(&["203.0.113.1/32", "203.0.113.2/32"]);
    session.set_wanted(at(1000), &same);
    flush(&mut session, &mut table, at(1000));
    assert_eq!(table.updates, 1, "nothing is said twice");
    let mut session = handed(&session, at(2000));
    session.set_wanted(at(2000), &wanted(&["203.0.113.2/32", "203.0.113.3/32"]));
    flush(&mut session, &mut table, at(2000));
    assert_eq!(table.updates, 3, "one is withdrawn, one is new");
    assert_eq!(table.prefixes(), ["203.0.113.2/32", "203.0.113.3/32"]);
    assert_eq!(session.updates().0, 3);
}

#[test]
fn a_session_that_is_not_established_does_not_go_on() {
    let mut session = BgpSession::new(settings(OURS, PeerAsn::Number(THEIRS)), 1, at(0));
    assert_eq!(session.continuation(), None);
    session.tick(at(0));
    session.connected(at(1), own(1));
    assert_eq!(session.continuation(), None);
    session.receive(at(2), &encode::open(&open(THEIRS)));
    assert_eq!(session.continuation(), None);
}

#[test]
fn a_router_that_asks_again_while_it_goes_over_is_told_again() {
    let (mut session, mut table) = (external(), Table::default());
    session.set_wanted(at(4), &wanted(&["203.0.113.1/32"]));
    flush(&mut session, &mut table, at(4));
    // Too early for more, so it waits.
    session.rib_out.refresh(IpFamily::IPv4);
    session.fill(at(5));
    assert!(session.outgoing().is_empty());
    let mut session = handed(&session, at(2000));
    session.set_wanted(at(2000), &wanted(&["203.0.113.1/32"]));
    flush(&mut session, &mut table, at(2000));
    assert_eq!(table.updates, 2);
}

#[test]
fn times_go_on_and_what_waits_to_be_read_is_no_silence() {
    let session = external();
    let (state, since) = session.state();
    let hold_until = session.hold_until.unwrap();
    let same = handed(&session, at(1000));
    assert_eq!(same.state(), (state, since));
    assert_eq!(same.hold_until, Some(hold_until));
    assert_eq!(same.keepalive_at, session.keepalive_at);
    // It took so long that the router may have said something meanwhile.
    let mut late = handed(&session, hold_until.after(Duration::from_secs(1)));
    let now = hold_until.after(Duration::from_millis(1500));
    late.tick(now);
    assert_eq!(late.state().0, BgpState::Established);
    late.tick(now.after(Duration::from_secs(1)));
    assert_eq!(late.state().0, BgpState::Idle, "nothing came");
}

#[test]
fn a_message_that_has_come_in_part_is_completed_wherever_it_is_cut() {
    let whole = [encode::keepalive(), encode::end_of_rib(IpFamily::IPv4)].concat();
    for cut in 0..=whole.len() {
        let mut session = external();
        session.receive(at(10), &whole[..cut]);
        let mut session = handed(&session, at(20));
        session.receive(at(30), &whole[cut..]);
        assert_eq!(session.state().0, BgpState::Established, "{cut}");
        assert_eq!(session.updates().1, 1, "{cut}");
    }
}
