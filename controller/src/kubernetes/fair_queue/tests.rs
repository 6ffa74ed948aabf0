use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// How long an answer takes, and how long a request waits for one at most.
const ANSWER: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(4);

/// How long a job may wait whose namespace answers, whatever the others do: until those that hang are
/// late, and its turn.
const SOON: Duration = Duration::from_millis(1_500);

/// Comes at this time, in this namespace, about this object.
type Arrival = (Duration, u8, u8, bool);

struct Simulation {
    queue: FairQueue<(u8, u8), Arrival>,
    start: Instant,
    hangs: fn(u8) -> bool,
    /// When each running job is answered.
    answers: BTreeMap<(Instant, Ticket), Arrival>,
    superseded: usize,
    ended: usize,
    longest: Duration,
}

fn name(namespace: u8) -> Arc<str> {
    format!("ns-{namespace}").into()
}

impl Simulation {
    fn new(most: usize, hangs: fn(u8) -> bool) -> Self {
        Self {
            queue: FairQueue::new(most),
            start: Instant::now(),
            hangs,
            answers: BTreeMap::new(),
            superseded: 0,
            ended: 0,
            longest: Duration::ZERO,
        }
    }

    fn run(&mut self, mut arrivals: Vec<Arrival>) -> Result<(), TestCaseError> {
        arrivals.sort();
        let mut coming = arrivals.into_iter().peekable();
        loop {
            let next = [
                coming.peek().map(|it| self.start + it.0),
                self.answers.keys().next().map(|(at, _)| *at),
                self.queue.next_late(),
            ];
            let Some(now) = next.into_iter().flatten().min() else {
                return Ok(());
            };
            self.queue.tick(now);
            while let Some(arrival) = coming.next_if(|it| self.start + it.0 <= now) {
                let (_, namespace, object, urgent) = arrival;
                let urgency = if urgent {
                    Urgency::Urgent
                } else {
                    Urgency::Usual
                };
                let key = ((namespace, object), 0);
                let former = self.queue.push(&name(namespace), key, urgency, arrival);
                self.superseded += usize::from(former.is_some());
            }
            while let Some(((at, ticket), arrival)) = self.answers.pop_first() {
                if at > now {
                    self.answers.insert((at, ticket), arrival);
                    break;
                }
                let sign = match (self.hangs)(arrival.1) {
                    true => Sign::Neither,
                    false => Sign::Well,
                };
                self.queue.answered(&name(arrival.1), sign, now);
                self.queue.ended(ticket);
                self.ended += 1;
            }
            while let Some((ticket, arrival)) = self.queue.next(now) {
                self.began(ticket, arrival, now)?;
            }
        }
    }

    fn began(
        &mut self,
        ticket: Ticket,
        arrival: Arrival,
        now: Instant,
    ) -> Result<(), TestCaseError> {
        let hangs = (self.hangs)(arrival.1);
        if !hangs {
            self.longest = self.longest.max(now - (self.start + arrival.0));
        }
        let answered = now + if hangs { PATIENCE } else { ANSWER };
        let mut same = self.answers.values();
        let is_alone = !same.any(|it| (it.1, it.2) == (arrival.1, arrival.2));
        prop_assert!(is_alone, "two writes of one object: {arrival:?}");
        self.answers.insert((answered, ticket), arrival);
        let hanging: Vec<_> = self
            .answers
            .values()
            .filter(|it| (self.hangs)(it.1))
            .collect();
        prop_assert!(self.queue.running() == self.answers.len());
        prop_assert!(self.answers.len() - hanging.len() <= self.queue.most);
        Ok(())
    }
}

fn arrivals(namespaces: u8) -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (0..8_000u64, 0..namespaces, 0..40u8, any::<bool>());
    let arrival = arrival
        .prop_map(|(at, ns, object, urgent)| (Duration::from_millis(at), ns, object, urgent));
    proptest::collection::vec(arrival, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn namespaces_that_hang_hold_up_no_other(arrivals in arrivals(8)) {
        // Two of eight namespaces never answer.
        let mut it = Simulation::new(16, |namespace| namespace < 2);
        let all = arrivals.len();
        it.run(arrivals)?;
        prop_assert_eq!(it.ended + it.superseded, all, "each job ends or is superseded");
        prop_assert!(it.longest < SOON, "{:?}", it.longest);
        prop_assert!(it.queue.lanes.is_empty() && it.queue.busy.is_empty());
        prop_assert!(it.queue.turns.iter().all(VecDeque::is_empty));
    }
}

#[test]
fn fifty_objects_behind_a_webhook_that_hangs_hold_up_no_other_namespace() {
    let mut it = Simulation::new(64, |namespace| namespace == 0);
    let hanging = (0..50).map(|object| (Duration::ZERO, 0, object, true));
    let others = (0..1_000u64).map(|n| {
        let (namespace, object) = ((n % 4 + 1) as u8, (n % 250) as u8);
        (Duration::from_millis(n * 5), namespace, object, true)
    });
    it.run(hanging.chain(others).collect()).unwrap();
    // Half of the places were left from the start.
    assert!(it.longest < Duration::from_millis(100), "{:?}", it.longest);
}

#[test]
fn one_namespace_alone_has_half_of_all_and_leaves_room_for_the_next() {
    let (mut queue, now) = (FairQueue::<u8, ()>::new(8), Instant::now());
    for object in 0..20 {
        queue.push(&name(0), (object, 0), Urgency::Usual, ());
    }
    let begin = |queue: &mut FairQueue<u8, ()>| std::iter::from_fn(|| queue.next(now)).count();
    assert_eq!(begin(&mut queue), 4);
    for (namespace, begins) in [(1, 2), (2, 1), (3, 1), (4, 0)] {
        for object in 0..20 {
            let object = 20 * (namespace + 1) + object;
            queue.push(&name(namespace), (object, 0), Urgency::Usual, ());
        }
        assert_eq!(begin(&mut queue), begins, "{namespace}");
    }
}

#[test]
fn an_api_server_that_is_busy_is_given_less_and_one_namespace_lowers_nobody_elses_rate() {
    let (mut queue, now) = (FairQueue::<u8, ()>::new(8), Instant::now());
    for namespace in [0, 1] {
        queue.push(&name(namespace), (namespace, 0), Urgency::Usual, ());
    }
    for _ in 0..20 {
        queue.answered(&name(0), Sign::Busy, now);
        queue.answered(&name(0), Sign::Neither, now);
    }
    let allowed = |queue: &FairQueue<u8, ()>| (queue.allowed, queue.lanes[&name(0)].allowed);
    assert_eq!(allowed(&queue), (8, 1));
    queue.answered(&name(1), Sign::Busy, now);
    assert_eq!(allowed(&queue), (7, 1));
    for _ in 0..GOOD {
        queue.answered(&name(0), Sign::Well, now);
    }
    assert_eq!(allowed(&queue), (8, 2));
    queue.answered(&name(1), Sign::Busy, now + SAME_TROUBLE);
    assert_eq!(queue.allowed, 8);
}

#[test]
fn a_newer_write_takes_the_place_of_one_that_waits_and_waits_for_one_on_its_way() {
    let (mut queue, now) = (FairQueue::new(8), Instant::now());
    let push = |queue: &mut FairQueue<u8, &'static str>, job| {
        queue.push(&name(0), (7, 0), Urgency::Usual, job)
    };
    assert_eq!(push(&mut queue, "first"), None);
    let (ticket, first) = queue.next(now).unwrap();
    assert_eq!(first, "first");
    assert_eq!(push(&mut queue, "second"), None);
    assert_eq!(push(&mut queue, "third"), Some("second"));
    assert!(queue.next(now).is_none());
    queue.ended(ticket);
    assert_eq!(queue.next(now).unwrap().1, "third");
}

#[test]
fn an_address_goes_before_what_is_only_told() {
    let (mut queue, now) = (FairQueue::new(8), Instant::now());
    queue.push(&name(0), (1, 0), Urgency::Usual, "told");
    queue.push(&name(0), (2, 0), Urgency::Usual, "told first");
    queue.push(&name(1), (3, 0), Urgency::Urgent, "address");
    queue.push(&name(0), (2, 0), Urgency::Urgent, "address, too");
    let order: Vec<_> = std::iter::from_fn(|| Some(queue.next(now)?.1)).collect();
    assert_eq!(order, ["address", "address, too", "told"]);
}
