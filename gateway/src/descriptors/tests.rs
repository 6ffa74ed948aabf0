#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn the_budget_leaves_a_part_to_the_rest_of_the_process() {
    // limit, workers; in all, unused connections on each worker
    for (limit, workers, total, pooled) in [
        (1024, 2, 1024 - 128 - 2 * 64, 64),
        (65_536, 2, 65_536 - 6553 - 2 * 512, 512),
        (65_536, 64, 65_536 - 6553 - 64 * 128, 128),
        (100, 1, 38, 12),
        (0, 1, 0, 0),
    ] {
        let descriptors = Descriptors::new(limit, workers);
        assert_eq!(
            (descriptors.total(), descriptors.pooled()),
            (total, pooled),
            "{limit} {workers}"
        );
    }
}

#[test]
fn who_was_turned_away_is_told_once_when_something_is_given_back() {
    let descriptors = Arc::new(Descriptors::new(16, 1));
    let told = Arc::new(AtomicUsize::new(0));
    let waker = {
        let told = told.clone();
        move || {
            told.fetch_add(1, Ordering::Relaxed);
        }
    };
    descriptors.wake(vec![Box::new(waker)]);
    let all = u32::try_from(descriptors.total()).unwrap();
    let taken = descriptors.take(None, all - 1).unwrap();
    drop(descriptors.take(None, 1).unwrap());
    assert_eq!(told.load(Ordering::Relaxed), 0, "nobody waits");
    assert!(descriptors.take_or_pause(None, 2).is_none());
    assert!(descriptors.take_or_pause(None, 2).is_none());
    assert_eq!(descriptors.pauses.get(), 1, "one row of pauses");
    drop(taken);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    drop(descriptors.take_or_pause(None, all).unwrap());
    assert_eq!(told.load(Ordering::Relaxed), 1, "nobody waits any more");
    assert!(!descriptors.pausing.load(Ordering::Relaxed), "it goes on");
}

/// A budget of 800.
fn eight_hundred() -> Arc<Descriptors> {
    let mut descriptors = Descriptors::new(0, 1);
    descriptors.free = AtomicUsize::new(800);
    descriptors.total = 800;
    Arc::new(descriptors)
}

/// Takes for a port until it gets no more.
fn fill(descriptors: &Arc<Descriptors>, share: &Arc<Share>) -> Vec<Permit> {
    std::iter::from_fn(|| descriptors.take(Some(share), CONNECTION)).collect()
}

#[test]
fn what_one_port_leaves_is_for_others() {
    let descriptors = eight_hundred();
    let share = || Arc::new(Share::default());
    let (greedy, next, last) = (share(), share(), share());
    let taken = fill(&descriptors, &greedy);
    assert_eq!(taken.len() * 2, 700);
    assert_eq!(fill(&descriptors, &next).len() * 2, 86);
    // What is for no port, and what can be done without.
    assert!(descriptors.take(None, 2).is_some());
    assert!(descriptors.take_spare(2).is_none());
    let _next = fill(&descriptors, &next);
    assert!(!fill(&descriptors, &last).is_empty());
    drop(taken);
    assert_eq!(greedy.held.load(Ordering::Relaxed), 0);
    assert!(descriptors.take_spare(2).is_some());
}

#[test]
fn ports_that_want_all_get_the_same() {
    let descriptors = eight_hundred();
    let ports: Vec<_> = (0..5).map(|_| Arc::new(Share::default())).collect();
    let mut taken = Vec::new();
    loop {
        let before = taken.len();
        for share in &ports {
            taken.extend(descriptors.take(Some(share), CONNECTION));
        }
        if taken.len() == before {
            break;
        }
    }
    // 7/36 of 800 each, and 1/36 is left.
    for share in &ports {
        let held = share.held.load(Ordering::Relaxed);
        assert!((150..=156).contains(&held), "{held}");
    }
    assert!(descriptors.free() >= 20);
}

#[test]
fn a_port_that_has_its_share_gets_more_as_soon_as_anything_is_given_back() {
    let descriptors = eight_hundred();
    let (greedy, other) = (Arc::new(Share::default()), Arc::new(Share::default()));
    let others = fill(&descriptors, &other).split_off(300);
    let mut taken = fill(&descriptors, &greedy);
    assert!(
        descriptors
            .take_or_pause(Some(&greedy), CONNECTION)
            .is_none()
    );
    drop(others);
    taken.extend(descriptors.take_or_pause(Some(&greedy), CONNECTION));
    taken.extend(fill(&descriptors, &greedy));
    assert!(
        descriptors
            .take_or_pause(Some(&greedy), CONNECTION)
            .is_none()
    );
    taken.pop();
    assert!(
        descriptors
            .take_or_pause(Some(&greedy), CONNECTION)
            .is_some()
    );
}

#[test]
fn however_many_ports_of_one_namespace_are_full_another_one_gets_something() {
    let descriptors = eight_hundred();
    let (hostile, other) = (Arc::new(Share::default()), Arc::new(Share::default()));
    let mut taken = Vec::new();
    for _ in 0..100 {
        taken.extend(fill(&descriptors, &Share::within(hostile.clone())));
    }
    assert!((770..=776).contains(&(taken.len() * 2)), "{}", taken.len());
    let port = Share::within(other.clone());
    assert!(fill(&descriptors, &port).len() >= 8);
    drop(taken);
    for share in [&hostile, &other, &port] {
        assert_eq!(share.held.load(Ordering::Relaxed), 0);
    }
}
