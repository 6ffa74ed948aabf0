//! Scrapes in the order of time, and what Prometheus' own rule engine makes of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use crate::metrics::samples;
use crate::project::project;
use crate::watching::promtool;

/// How long the program is in a state, in minutes.
pub(crate) const LONG: usize = 30;

/// What each target answers; none: it is there and does not answer.
type Answers<'a> = Vec<(&'a str, Option<&'a str>)>;

/// One state after the other, each held for so many minutes.
pub(crate) struct Timeline<'a>(Vec<(Answers<'a>, usize)>);

impl<'a> Timeline<'a> {
    /// A state that lasts.
    pub(crate) fn of(exposition: &'a str) -> Self {
        Self::states(&[(Some(exposition), LONG)])
    }

    /// What goes on each minute as it went on between the two.
    pub(crate) fn going_on(before: &'a str, after: &'a str) -> Self {
        Self::states(&[(Some(before), 5), (Some(after), LONG)])
    }

    /// The states of one process.
    pub(crate) fn states(states: &[(Option<&'a str>, usize)]) -> Self {
        let states = states.iter();
        Self(
            states
                .map(|(answer, minutes)| (vec![("edge", *answer)], *minutes))
                .collect(),
        )
    }

    /// The states of several processes.
    pub(crate) fn several(states: Vec<(Answers<'a>, usize)>) -> Self {
        Self(states)
    }

    /// How long it is, in minutes.
    fn length(&self) -> usize {
        self.0.iter().map(|(_, minutes)| minutes).sum()
    }

    /// The series as promtool takes them.
    fn input(&self) -> Result<String> {
        let mut all: BTreeMap<String, Values> = BTreeMap::new();
        let mut begun = 0;
        for (answers, minutes) in &self.0 {
            let mut now = BTreeMap::new();
            for (instance, answer) in answers {
                let is_up = f64::from(u8::from(answer.is_some()));
                now.insert(format!("up{{instance=\"{instance}\"}}"), is_up);
                for line in samples(answer.unwrap_or_default()) {
                    let (series, value) = line.rsplit_once(' ').context(line.to_owned())?;
                    // Prometheus adds where it scraped it.
                    let series = match series.split_once('{') {
                        Some((name, labels)) => format!("{name}{{instance=\"{instance}\",{labels}"),
                        None => format!("{series}{{instance=\"{instance}\"}}"),
                    };
                    now.insert(series, value.parse()?);
                }
            }
            for (series, values) in &mut all {
                if !now.contains_key(series) {
                    values.end(begun)?;
                }
            }
            for (series, value) in now {
                let is_counter = is_counter(&series);
                let values = all.entry(series).or_default();
                values.hold(value, is_counter, begun, *minutes)?;
            }
            begun += minutes;
        }
        let mut input = String::new();
        for (series, values) in all {
            let values = values.text.trim();
            writeln!(input, "      - {{series: '{series}', values: '{values}'}}")?;
        }
        Ok(input)
    }

    /// Fails unless each of these alerts fires at the end, with this label, and `calm` ones do not.
    pub(crate) fn fires(&self, alerts: &[(&str, &str)], calm: &[(&str, &str)]) -> Result<()> {
        let asks = |those: &[(&str, &str)], samples: &'static str| {
            let those = those.iter();
            let asks = those.map(|alert| (format!("{} > bool 0", firing(alert)), samples));
            asks.collect::<Vec<_>>()
        };
        let mut all = asks(alerts, IS_SO);
        all.extend(asks(calm, "[]"));
        self.ask(&all)
    }

    /// Fails unless each of these alerts fires all the time in the last `minutes`.
    pub(crate) fn fires_throughout(&self, minutes: usize, alerts: &[(&str, &str)]) -> Result<()> {
        let ask = |alert| {
            let firing = firing(alert);
            let least = format!("min_over_time(({firing} or vector(0))[{minutes}m:1m])");
            (format!("{least} > bool 0"), IS_SO)
        };
        self.ask(&alerts.iter().map(ask).collect::<Vec<_>>())
    }

    /// Fails unless each expression has these samples at the end.
    fn ask(&self, expressions: &[(String, &str)]) -> Result<()> {
        let mut tests = format!(
            "rule_files: [{}]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    \
             input_series:\n{}    promql_expr_test:\n",
            project("deploy/alerts/fairway.yaml").display(),
            self.input()?
        );
        let minute = self.length() - 1;
        for (expression, samples) in expressions {
            writeln!(
                tests,
                "      - {{expr: '{expression}', eval_time: {minute}m, exp_samples: {samples}}}"
            )?;
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tests.yaml");
        fs::write(&path, &tests)?;
        let path = path.to_str().context("a path that is no text")?;
        promtool(&["test", "rules", path])
    }
}

/// What an expression with `> bool 0` says where it is so.
const IS_SO: &str = "[{labels: \"{}\", value: 1}]";

/// How many alerts of that name and label fire; nothing where there is none.
fn firing((alert, label): &(&str, &str)) -> String {
    let comma = if label.is_empty() { "" } else { "," };
    format!("count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"{comma}{label}}})")
}

fn is_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    let ends = ["_total", "_bucket", "_sum", "_count"];
    ends.iter().any(|end| name.ends_with(end))
}

/// The values of a series, one a minute, as promtool reads them.
#[derive(Default)]
struct Values {
    text: String,
    /// For how many minutes it has values, or none by name.
    written: usize,
    /// The last one, while the series is there.
    last: Option<f64>,
}

impl Values {
    /// From the minute `begun` it has this value; a counter goes on as it went on to it.
    fn hold(&mut self, value: f64, is_counter: bool, begun: usize, minutes: usize) -> Result<()> {
        if begun > self.written {
            write!(self.text, " _x{}", begun - self.written)?;
        }
        let step = match self.last {
            // A process that starts anew counts from zero.
            Some(before) if is_counter => (value - before).max(0.0),
            _ => 0.0,
        };
        // A step has one sign: 1+2x3, 1-2x3.
        write!(self.text, " {value}{step:+}x{}", minutes - 1)?;
        self.written = begun + minutes;
        self.last = Some(value);
        Ok(())
    }

    /// From the minute `begun` it is gone. Prometheus notes that at once.
    fn end(&mut self, begun: usize) -> Result<()> {
        if self.last.take().is_some() {
            write!(self.text, " stale")?;
            self.written = begun + 1;
        }
        Ok(())
    }
}
