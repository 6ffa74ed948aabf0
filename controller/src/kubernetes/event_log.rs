//! The lines that the log gets of Events: what comes for many Services at once is one line.
//!
//! Events that say what a Service was given are logged as they come. Faults, and that traffic is back, are
//! collected by reason: a batch has ended when nothing has come for a second, or after five. A batch of a few
//! Services is a line for each; one of many is one line, which counts them and names the first. Where no gateway
//! is alive there is one cause for all Services, so it is one line however few they are, and so is its end.
//!
//! A value without a clock or I/O, [`LogLine::write`] aside: the caller says what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairway_config::names::ServiceName;
use fairway_controller_core::events::Event;

/// The most Services of one batch that have a line each.
const APART: usize = 10;

/// How many Services a line names; the others are counted.
const NAMED: usize = 5;

/// A batch has ended when nothing has come for so long, …
const PAUSE: Duration = Duration::from_secs(1);
/// … or it has lasted for so long.
const LONGEST: Duration = Duration::from_secs(5);

/// So many batches of one reason in a row, and after those one more each time this has passed.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_secs(15);

/// The reasons of a fleet without a gateway, and of traffic that is back.
const NO_GATEWAY: &str = "NoGateway";
const PROGRAMMED: &str = "Programmed";

/// What is to be logged, by reason.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    reasons: BTreeMap<String, ReasonLog>,
    /// It was logged that no gateway is alive, and not yet that Services are served again.
    lacks_gateway: bool,
}

/// One reason.
#[derive(Debug)]
struct ReasonLog {
    batch: Option<EventBatch>,
    /// So many batches may follow at once, as of `refilled`.
    budget: u32,
    refilled: Instant,
}

/// Events of one reason that came together.
#[derive(Debug)]
struct EventBatch {
    began: Instant,
    latest: Instant,
    is_warning: bool,
    services: BTreeSet<ServiceName>,
    /// The first ones, in the order in which they came, with their messages.
    first: Vec<(ServiceName, String)>,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    is_warning: bool,
    reason: String,
    /// So many Services.
    count: usize,
    /// Which, by the names of the first ones.
    services: String,
    message: String,
}

impl EventLog {
    /// An Event of this Service is to be logged.
    pub(super) fn note(&mut self, service: &ServiceName, event: &Event, now: Instant) {
        let reason = self.reasons.entry(event.reason.clone());
        let reason = reason.or_insert_with(|| ReasonLog {
            batch: None,
            budget: BURST,
            refilled: now,
        });
        let batch = reason.batch.get_or_insert_with(|| EventBatch {
            began: now,
            latest: now,
            is_warning: event.is_warning,
            services: BTreeSet::new(),
            first: Vec::new(),
        });
        batch.latest = now;
        batch.is_warning |= event.is_warning;
        batch.services.insert(service.clone());
        if let Some((_, message)) = batch.first.iter_mut().find(|it| it.0 == *service) {
            message.clone_from(&event.message);
        } else if batch.first.len() < APART {
            batch.first.push((service.clone(), event.message.clone()));
        }
    }

    /// When the next batch is to be written.
    pub(super) fn next(&self) -> Option<Instant> {
        self.reasons.values().filter_map(ReasonLog::due).min()
    }

    /// The lines of the batches that are to be written by now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<LogLine> {
        let lines = self.take(|reason| reason.due().is_some_and(|due| due <= now), now);
        // Reasons without end take no memory.
        self.reasons.retain(|_, reason| {
            reason.refill(now);
            reason.batch.is_some() || reason.budget < BURST
        });
        lines
    }

    /// The lines of everything that was not written yet.
    pub(super) fn take_all(&mut self, now: Instant) -> Vec<LogLine> {
        self.take(|_| true, now)
    }

    fn take(&mut self, is_due: impl Fn(&ReasonLog) -> bool, now: Instant) -> Vec<LogLine> {
        let mut batches: Vec<(String, EventBatch)> = Vec::new();
        for (name, reason) in &mut self.reasons {
            if is_due(reason)
                && let Some(batch) = reason.batch.take()
            {
                reason.refill(now);
                reason.budget = reason.budget.saturating_sub(1);
                batches.push((name.clone(), batch));
            }
        }
        batches.sort_by_key(|(_, batch)| batch.began);
        let lines = batches.into_iter();
        lines
            .flat_map(|(reason, batch)| self.lines(reason, batch))
            .collect()
    }

    fn lines(&mut self, reason: String, batch: EventBatch) -> Vec<LogLine> {
        let count = batch.services.len();
        let they_are = match count {
            1 => "1 Service is".to_owned(),
            count => format!("{count} Services are"),
        };
        let is_back = reason == PROGRAMMED && std::mem::take(&mut self.lacks_gateway);
        let message = match &*reason {
            NO_GATEWAY => {
                self.lacks_gateway = true;
                format!("no gateway is alive: {they_are} not served")
            }
            PROGRAMMED if is_back => format!("a gateway is alive again: {they_are} served"),
            _ if count <= APART => return batch.apart(&reason),
            PROGRAMMED => format!("{they_are} served again"),
            _ => {
                let first = batch.first.first();
                let message = first.map(|(_, message)| &**message);
                format!(
                    "{they_are} concerned; the first one: {}",
                    message.unwrap_or_default()
                )
            }
        };
        vec![LogLine {
            is_warning: batch.is_warning,
            services: batch.named(),
            reason,
            count,
            message,
        }]
    }
}

impl ReasonLog {
    /// When its batch is to be written.
    fn due(&self) -> Option<Instant> {
        let batch = self.batch.as_ref()?;
        let ended = (batch.latest + PAUSE).min(batch.began + LONGEST);
        let allowed = match self.budget {
            0 => self.refilled + REFILL,
            _ => self.refilled,
        };
        Some(ended.max(allowed))
    }

    fn refill(&mut self, now: Instant) {
        let refills = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let refills = u32::try_from(refills).unwrap_or(BURST).min(BURST);
        if refills > 0 {
            self.budget = (self.budget + refills).min(BURST);
            self.refilled = now;
        }
    }
}

impl EventBatch {
    /// A line for each Service.
    fn apart(self, reason: &str) -> Vec<LogLine> {
        let line = |(service, message): (ServiceName, String)| LogLine {
            is_warning: self.is_warning,
            reason: reason.to_owned(),
            count: 1,
            services: service.to_string(),
            message,
        };
        self.first.into_iter().map(line).collect()
    }

    /// The names of the first ones.
    fn named(&self) -> String {
        let some = self.first.iter().take(NAMED);
        let some: Vec<String> = some.map(|(service, _)| service.to_string()).collect();
        match self.services.len().saturating_sub(NAMED) {
            0 => some.join(", "),
            more => format!("{} and {more} more", some.join(", ")),
        }
    }
}

impl LogLine {
    /// Writes it to the log.
    pub(super) fn write(&self) {
        let (one, many) = match self.count {
            1 => (Some(tracing::field::display(&self.services)), None),
            _ => (None, Some(&*self.services)),
        };
        let (reason, message) = (&self.reason, &self.message);
        if self.is_warning {
            tracing::warn!(service = one, services = many, reason, "{message}");
        } else {
            tracing::info!(service = one, services = many, reason, "{message}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn service(number: usize) -> ServiceName {
        ServiceName {
            namespace: "shop".into(),
            name: format!("web-{number}").into(),
        }
    }

    fn event(reason: &str) -> Event {
        Event {
            reason: reason.to_owned(),
            is_warning: reason != PROGRAMMED,
            is_of_traffic: true,
            message: format!("{reason}, it says."),
        }
    }

    /// What the log gets: the reason, the Services, and the message.
    fn shown(lines: Vec<LogLine>) -> Vec<[String; 3]> {
        let row = |line: LogLine| [line.reason, line.services, line.message];
        lines.into_iter().map(row).collect()
    }

    /// Events of these Services, a millisecond apart, and then a pause.
    fn batch(
        log: &mut EventLog,
        reason: &str,
        services: std::ops::Range<usize>,
        now: &mut Instant,
    ) -> Vec<[String; 3]> {
        for number in services {
            log.note(&service(number), &event(reason), *now);
            assert!(log.take_due(*now).is_empty(), "it has not ended");
            *now += Duration::from_millis(1);
        }
        *now = log.next().unwrap();
        shown(log.take_due(*now))
    }

    #[test]
    fn no_gateway_is_one_line_with_a_count_and_so_is_its_end() {
        let (mut log, mut now) = (EventLog::default(), Instant::now());
        let five = "shop/web-0, shop/web-1, shop/web-2, shop/web-3, shop/web-4 and 195 more";
        for (count, services, verb) in [
            (200, five, "200 Services are"),
            (2, "shop/web-0, shop/web-1", "2 Services are"),
            (1, "shop/web-0", "1 Service is"),
        ] {
            let lines = batch(&mut log, NO_GATEWAY, 0..count, &mut now);
            let message = format!("no gateway is alive: {verb} not served");
            assert_eq!(lines, [[NO_GATEWAY, services, &message]]);
            let lines = batch(&mut log, PROGRAMMED, 0..count, &mut now);
            let message = format!("a gateway is alive again: {verb} served");
            assert_eq!(lines, [[PROGRAMMED, services, &message]]);
        }
    }

    #[test]
    fn faults_of_few_services_have_a_line_each_and_those_of_many_one_for_all() {
        let (mut log, mut now) = (EventLog::default(), Instant::now());
        let lines = batch(&mut log, "NoEndpoints", 0..APART, &mut now);
        let each: Vec<[String; 3]> = (0..APART)
            .map(|number| {
                let name = service(number).to_string();
                [
                    "NoEndpoints".to_owned(),
                    name,
                    "NoEndpoints, it says.".to_owned(),
                ]
            })
            .collect();
        assert_eq!(lines, each);
        let lines = batch(&mut log, "NoEndpoints", 0..APART + 1, &mut now);
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        assert!(line[1].ends_with("shop/web-4 and 6 more"), "{line:?}");
        assert_eq!(
            line[2],
            "11 Services are concerned; the first one: NoEndpoints, it says."
        );
        // Nothing was said of gateways.
        let lines = batch(&mut log, PROGRAMMED, 0..1, &mut now);
        assert_eq!(lines, [[PROGRAMMED, "shop/web-0", "Programmed, it says."]]);
        let lines = batch(&mut log, PROGRAMMED, 0..20, &mut now);
        assert_eq!(lines[0][2], "20 Services are served again");
    }

    #[test]
    fn reasons_do_not_wait_for_each_other_and_a_batch_does_not_last_for_ever() {
        let (mut log, began) = (EventLog::default(), Instant::now());
        log.note(&service(0), &event("PortInUse"), began);
        let mut lines = Vec::new();
        for step in 0..100 {
            let now = began + Duration::from_millis(100) * step;
            log.note(&service(1), &event("NoEndpoints"), now);
            let taken = shown(log.take_due(now)).into_iter();
            lines.extend(taken.map(|line| (step, line[0].clone())));
        }
        // One Service is counted once.
        let rest = shown(log.take_all(began + Duration::from_secs(10)));
        assert_eq!(rest.len(), 1, "{rest:?}");
        let ports_in_use = (10, "PortInUse".to_owned());
        assert_eq!(lines, [ports_in_use, (50, "NoEndpoints".to_owned())]);
        assert_eq!(log.next(), None);
    }

    #[test]
    fn what_comes_and_goes_without_end_is_logged_at_a_bounded_rate() {
        let (mut log, began) = (EventLog::default(), Instant::now());
        let lines = |seconds: std::ops::Range<u64>, log: &mut EventLog| {
            let mut count = 0;
            for second in seconds {
                let now = began + Duration::from_secs(second);
                let reason = [NO_GATEWAY, PROGRAMMED][usize::from(second % 4 < 2)];
                for number in 0..200 {
                    log.note(&service(number), &event(reason), now);
                }
                count += log.take_due(now).len();
            }
            count
        };
        let first = lines(0..60, &mut log);
        assert!((10..=20).contains(&first), "{first}");
        let hour = lines(60..3660, &mut log);
        assert!((240..=490).contains(&hour), "{hour}");
    }

    #[test]
    fn reasons_without_end_take_no_memory() {
        let (mut log, began) = (EventLog::default(), Instant::now());
        for number in 0..10_000u32 {
            let now = began + Duration::from_secs(2) * number;
            log.note(&service(0), &event(&format!("Reason{number}")), now);
            log.take_due(now);
            assert!(log.reasons.len() < 20, "{}", log.reasons.len());
        }
    }
}
