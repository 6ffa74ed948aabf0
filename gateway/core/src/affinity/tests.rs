#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::testing::{client, endpoint, ip};

const TIMEOUT: Duration = Duration::from_secs(10);

fn any(_: EndpointAddr) -> bool {
    true
}

#[test]
fn a_client_is_remembered_for_its_timeout_and_not_a_millisecond_longer() {
    let table = Affinity::new(1);
    let to = endpoint("10.0.0.1:80");
    table.put(client(1), to, Tick(0));
    assert_eq!(table.get(client(1), Tick(10_000), TIMEOUT, any), Some(to));
    assert_eq!(
        table.get(client(1), Tick(20_000), TIMEOUT, any),
        Some(to),
        "seen at 10 s"
    );
    assert_eq!(table.get(client(1), Tick(30_001), TIMEOUT, any), None);
}

#[test]
fn a_client_is_not_kept_on_what_is_not_usable() {
    let table = Affinity::new(1);
    table.put(client(1), endpoint("10.0.0.1:80"), Tick(0));
    assert_eq!(table.get(client(1), Tick(0), TIMEOUT, |_| false), None);
}

#[test]
fn a_clock_read_before_anothers_write_takes_no_time_away() {
    let table = Affinity::new(1);
    let to = endpoint("10.0.0.1:80");
    table.put(client(1), to, Tick(5_000));
    assert_eq!(table.get(client(1), Tick(4_000), TIMEOUT, any), Some(to));
    assert_eq!(table.get(client(1), Tick(15_000), TIMEOUT, any), Some(to));
}

#[test]
fn families_do_not_mix_but_for_mapped_addresses() {
    let table = Affinity::new(1);
    let to = endpoint("10.0.0.1:80");
    table.put(ip("198.51.100.7"), to, Tick(0));
    assert_eq!(
        table.get(ip("::ffff:198.51.100.7"), Tick(0), TIMEOUT, any),
        Some(to)
    );
    assert_eq!(table.get(ip("::198.51.100.7"), Tick(0), TIMEOUT, any), None);
}

#[test]
fn the_table_is_bounded_and_forgets_whom_it_saw_least_recently() {
    let table = Affinity::new(1);
    let to = endpoint("10.0.0.1:80");
    let regular = client(0);
    table.put(regular, to, Tick(0));
    for n in 1..200_000 {
        table.put(client(n), to, Tick(u64::from(n)));
        if n % 1_000 == 0 {
            let kept = table.get(regular, Tick(u64::from(n)), Duration::MAX, any);
            assert_eq!(kept, Some(to), "after {n} others");
        }
    }
    assert_eq!(table.len(), CAPACITY);
    assert_eq!(
        table.get(client(1), Tick(200_000), Duration::MAX, any),
        None
    );
    assert_eq!(
        table.get(client(199_999), Tick(200_000), Duration::MAX, any),
        Some(to)
    );
}

#[test]
fn many_threads_agree_on_one_client() {
    let table = Affinity::new(1);
    let to = endpoint("10.0.0.1:80");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..5_000 {
                    table.put(client(n), to, Tick(0));
                    assert_eq!(table.get(client(n), Tick(0), TIMEOUT, any), Some(to));
                }
            });
        }
    });
    assert_eq!(table.len(), 5_000);
}

#[test]
fn memory_of_clients_whose_time_is_over_is_given_back_and_the_others_stay() {
    let to = endpoint("10.0.0.1:80");
    for kept in [0, 1, 100, 5_000] {
        let table = Affinity::new(1);
        assert_eq!(table.capacity(), 0);
        for n in 0..60_000 {
            table.put(client(n), to, Tick(0));
        }
        assert!(table.capacity() >= 55_000, "{}", table.capacity());
        // Some speak on.
        for n in 0..kept {
            assert_eq!(table.get(client(n), Tick(9_000), TIMEOUT, any), Some(to));
        }
        table.expire(Tick(10_000), TIMEOUT);
        assert!(table.len() >= 55_000, "nobody's time is over");
        table.expire(Tick(10_001), TIMEOUT);
        assert_eq!(table.len(), kept as usize);
        let most = kept as usize * 8 + 16 * 64;
        assert!(
            table.capacity() <= if kept == 0 { 0 } else { most },
            "memory for {} clients of {kept}",
            table.capacity()
        );
        for n in 0..kept {
            assert_eq!(table.get(client(n), Tick(19_000), TIMEOUT, any), Some(to));
        }
        // It grows again, and forgets whom it saw least recently.
        for n in 100_000..300_000 {
            table.put(client(n), to, Tick(20_000));
        }
        assert_eq!(table.len(), CAPACITY);
    }
}

#[test]
fn tables_of_many_ports_are_bounded_together_and_leave_some_to_one_that_comes_later() {
    const TOTAL: usize = 10_000;
    let to = endpoint("10.0.0.1:80");
    let room = Arc::new(ClientRoom::new(TOTAL));
    let mut tables = Vec::new();
    for port in 0..20 {
        let table = Affinity::within(port, room.clone());
        for n in 0..20_000 {
            table.put(client(n), to, Tick(n.into()));
        }
        let last = table.get(client(19_999), Tick(20_000), TIMEOUT * 10, any);
        assert!(
            last == Some(to) || port >= 8,
            "whoever comes to port {port} is remembered, and the oldest is forgotten"
        );
        tables.push(table);
        let held: usize = tables.iter().map(Affinity::len).sum();
        assert_eq!(held + room.left(), TOTAL);
    }
    // The first has half of it, and the others of what is left.
    assert!(
        (4_000..6_000).contains(&tables[0].len()),
        "{}",
        tables[0].len()
    );
    for table in &tables {
        let capacity = table.capacity();
        assert!(capacity <= 4 * (table.len() + 16), "memory for {capacity}");
    }
    // What goes gives back what it had.
    tables[1].expire(Tick(u64::MAX), Duration::ZERO);
    assert_eq!(tables[1].len(), 0);
    tables.clear();
    assert_eq!(room.left(), TOTAL);
}

#[test]
fn another_process_goes_on_with_all_clients() {
    let (here, there) = (Affinity::new(1), Affinity::new(2));
    let to = |n: u32| endpoint(&format!("10.0.0.{}:80", n % 200 + 1));
    for n in 0..3000 {
        here.put(client(n), to(n), Tick(u64::from(n)));
    }
    here.put(ip("2001:db8::7"), endpoint("[2001:db8::1]:80"), Tick(7));
    let hand = |since: Tick| {
        let parts = (0..PARTS).map(|part| {
            let clients = here.part(part, since);
            assert!(clients.is_sorted_by_key(|(_, _, seen)| *seen));
            for (client, endpoint, seen) in &clients {
                there.put(*client, *endpoint, *seen);
            }
            clients.len()
        });
        parts.sum::<usize>()
    };
    assert_eq!(hand(Tick(0)), 3001);
    assert_eq!(there.len(), 3001);
    // What is seen since goes over once more, and nothing else.
    here.put(client(5), to(6), Tick(4000));
    assert_eq!(hand(Tick(3500)), 1);
    let at = Tick(7000);
    let kept = |n: u32| there.get(client(n), at, TIMEOUT, any);
    assert_eq!(kept(5), Some(to(6)));
    assert_eq!(kept(2999), Some(to(2999)));
    let six = there.get(ip("2001:db8::7"), at, TIMEOUT, any);
    assert_eq!(six, Some(endpoint("[2001:db8::1]:80")));
    assert_eq!(
        there.get(client(1), Tick(10_002), TIMEOUT, any),
        None,
        "its timeout is not counted anew"
    );
    assert!(Affinity::new(3).part(0, Tick(0)).is_empty());
}
