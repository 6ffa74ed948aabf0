//! What was asked for on the command line.

/// How to call it.
pub(crate) const USAGE: &str = "\
The project's own commands.

Usage: cargo xtask COMMAND

Commands:
  test [--no-install] [FILTER]
           Installs what the tests need (as root on Debian and Ubuntu; elsewhere it says what is
           missing and fails), checks the format, lints with warnings as errors, builds, runs
           every test and doc test, and checks the links in the documentation.
           FILTER: runs only the tests whose names contain it, and only them.
           --no-install: installs nothing; says what is missing and fails.
  bench [FILTER]
           Runs the benchmarks of the cores.
  bench peers
           Measures Fairway beside HAProxy, nginx and nftables, which it installs as `test` does,
           prints the figures, and writes integration/PEERS.md and integration/PEERS.json.
  bench failover [--runs=N]
           Measures in network namespaces how long clients are not served when a gateway departs, on
           layer 2 and by BGP, and keepalived and MetalLB beside it, which it installs and builds as
           `test` does; prints the figures and writes integration/FAILOVER.md. It takes three quarters of an
           hour on a machine that does nothing else; with --runs=N it writes nothing.
  bench versions --before=PROGRAM
           Measures a release build beside an earlier one (its path), in turns, and prints the ratios.
  bench limits [--rounds=N]
           Measures beside HAProxy, which it installs as `test` does, what a Service notices of clients that
           another one refuses for a limit, and of up to 20,000 that sit there (as many as a process may have
           files open for; `ulimit -Hn` 67,000 is enough for all); prints the figures and writes
           integration/LIMITS.md; with --rounds=N it writes nothing. It takes four minutes.
  bench health
           Measures in network namespaces how clients fare while an endpoint is killed, stopped, resets,
           vanishes, is slow or flaps, behind Fairway and behind HAProxy with the same checks, prints the
           table and writes integration/HEALTH.md. It takes five minutes.
  bench rolling
           Measures in network namespaces how many requests fail while all backends are replaced, behind
           Fairway, HAProxy and nginx, prints the table and writes integration/ROLLING.md. It takes six minutes.
  bench corpus
           Sends malformed and border-case HTTP/1 messages through Fairway, HAProxy and nginx in network
           namespaces, prints where they differ and writes integration/SMUGGLING.md. It takes a minute.
  bench upgrade
           Measures in network namespaces what clients notice of upgrades, and of kills meanwhile; prints
           the figures and writes integration/UPGRADE.md.
  measure  Measures a release build from outside, alone and in a cluster of 20,000 Services, and
           writes integration/FIGURES.md.
  tools    Builds the Go programs that the tests use (a Kubernetes control plane, Helm, gRPC's
           interoperability programs) and prints the folders they are in, written as $PATH is.
  help     Prints this.

What is built is kept in $CARGO_TARGET_DIR, else in fairway/target below $XDG_CACHE_HOME or
~/.cache, so that a second run is short. Of the Go programs, those that are in the folder
$KUBEBUILDER_ASSETS are used as they are.";

/// One call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// `help`.
    Help,
    /// `test`.
    Test {
        /// Whether missing programs may be installed.
        install: bool,
        /// Only tests whose names contain this.
        filter: Option<String>,
    },
    /// `bench`.
    Bench {
        /// Only benchmarks whose names contain this.
        filter: Option<String>,
    },
    /// `bench peers`.
    Peers,
    /// `bench upgrade`.
    Upgrade,
    /// `bench corpus`.
    Corpus,
    /// `bench failover`.
    Failover {
        /// How often each departure is measured; nothing: as often as usual.
        runs: Option<u32>,
    },
    /// `bench versions`.
    Versions {
        /// The earlier program.
        before: String,
    },
    /// `bench limits`.
    Limits {
        /// How many rounds; nothing: as many as usual.
        rounds: Option<u32>,
    },
    /// `bench health`.
    Health,
    /// `bench rolling`.
    Rolling,
    /// `measure`.
    Measure,
    /// `tools`.
    Tools,
}

/// Reads the arguments after the program's name; the error is a sentence for people.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Ask, String> {
    let mut arguments = arguments.into_iter();
    let command = arguments.next().ok_or("no command was given")?;
    let rest: Vec<String> = arguments.collect();
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Ask::Help),
        "test" => {
            let (flags, filter) = split(rest)?;
            if let Some(flag) = flags.iter().find(|flag| *flag != "--no-install") {
                return Err(format!("test has no option '{flag}'"));
            }
            Ok(Ask::Test {
                install: flags.is_empty(),
                filter,
            })
        }
        "bench" => match split(rest)? {
            (flags, Some(filter)) if flags.is_empty() && filter == "peers" => Ok(Ask::Peers),
            (flags, Some(filter)) if filter == "limits" => {
                let rounds = flags.first();
                let rounds = rounds.map(|flag| number(flag, "limits", "--rounds="));
                match flags.get(1) {
                    None => Ok(Ask::Limits {
                        rounds: rounds.transpose()?,
                    }),
                    Some(flag) => Err(format!("bench limits has no option '{flag}' besides")),
                }
            }
            (flags, Some(filter)) if flags.is_empty() && filter == "health" => Ok(Ask::Health),
            (flags, Some(filter)) if flags.is_empty() && filter == "rolling" => Ok(Ask::Rolling),
            (flags, Some(filter)) if flags.is_empty() && filter == "upgrade" => Ok(Ask::Upgrade),
            (flags, Some(filter)) if flags.is_empty() && filter == "corpus" => Ok(Ask::Corpus),
            (flags, Some(filter)) if filter == "failover" => {
                let runs = flags.first();
                let runs = runs
                    .map(|flag| number(flag, "failover", "--runs="))
                    .transpose()?;
                match flags.get(1) {
                    None => Ok(Ask::Failover { runs }),
                    Some(flag) => Err(format!("bench failover has no option '{flag}' besides")),
                }
            }
            (flags, Some(filter)) if filter == "versions" => match flags.as_slice() {
                [flag] => Ok(Ask::Versions {
                    before: before(flag)?,
                }),
                _ => Err("bench versions needs --before=PROGRAM and nothing else".to_owned()),
            },
            (flags, filter) if flags.is_empty() => Ok(Ask::Bench { filter }),
            (flags, _) => Err(format!("bench has no option '{}'", flags.join(" "))),
        },
        "measure" if rest.is_empty() => Ok(Ask::Measure),
        "tools" if rest.is_empty() => Ok(Ask::Tools),
        "measure" | "tools" => Err(format!("{command} takes no arguments")),
        _ => Err(format!("there is no command '{command}'")),
    }
}

/// What `--runs=N` says, or another flag with a number.
fn number(flag: &str, bench: &str, name: &str) -> Result<u32, String> {
    let number = flag.strip_prefix(name);
    let number = number.ok_or_else(|| format!("bench {bench} has no option '{flag}'"))?;
    match number.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("'{number}' is no number of runs")),
    }
}

/// What `--before=PROGRAM` says.
fn before(flag: &str) -> Result<String, String> {
    match flag.strip_prefix("--before=") {
        Some(program) if !program.is_empty() => Ok(program.to_owned()),
        _ => Err(format!("bench versions has no option '{flag}'")),
    }
}

/// Options, and at most one word that is none.
fn split(arguments: Vec<String>) -> Result<(Vec<String>, Option<String>), String> {
    let (flags, words): (Vec<_>, Vec<_>) = arguments
        .into_iter()
        .partition(|argument| argument.starts_with('-'));
    let mut words = words.into_iter();
    let filter = words.next();
    match words.next() {
        None => Ok((flags, filter)),
        Some(more) => Err(format!(
            "one filter at most can be given; '{more}' is another"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Ask, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn each_command_is_understood() {
        let test = |install, filter: Option<&str>| {
            Ok(Ask::Test {
                install,
                filter: filter.map(str::to_owned),
            })
        };
        let table = [
            ("help", Ok(Ask::Help)),
            ("--help", Ok(Ask::Help)),
            ("test", test(true, None)),
            ("test --no-install", test(false, None)),
            ("test affinity", test(true, Some("affinity"))),
            ("test --no-install affinity", test(false, Some("affinity"))),
            ("test affinity --no-install", test(false, Some("affinity"))),
            ("bench", Ok(Ask::Bench { filter: None })),
            (
                "bench change",
                Ok(Ask::Bench {
                    filter: Some("change".to_owned()),
                }),
            ),
            ("bench peers", Ok(Ask::Peers)),
            ("bench health", Ok(Ask::Health)),
            ("bench rolling", Ok(Ask::Rolling)),
            ("bench corpus", Ok(Ask::Corpus)),
            ("bench failover", Ok(Ask::Failover { runs: None })),
            ("bench limits", Ok(Ask::Limits { rounds: None })),
            (
                "bench limits --rounds=3",
                Ok(Ask::Limits { rounds: Some(3) }),
            ),
            ("bench upgrade", Ok(Ask::Upgrade)),
            (
                "bench failover --runs=5",
                Ok(Ask::Failover { runs: Some(5) }),
            ),
            (
                "bench versions --before=/tmp/fairway",
                Ok(Ask::Versions {
                    before: "/tmp/fairway".to_owned(),
                }),
            ),
            ("measure", Ok(Ask::Measure)),
            ("tools", Ok(Ask::Tools)),
        ];
        for (line, wanted) in table {
            assert_eq!(parsed(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let table = [
            ("", "no command"),
            ("tset", "'tset'"),
            ("test --fast", "'--fast'"),
            ("test one two", "'two'"),
            ("bench --fast", "'--fast'"),
            ("bench failover --fast", "'--fast'"),
            ("bench limits --runs=3", "'--runs=3'"),
            ("bench failover --runs=none", "'none'"),
            ("bench failover --runs=0", "'0'"),
            ("bench failover --runs=5 --fast", "'--fast'"),
            ("bench versions", "--before"),
            ("bench versions --before=", "'--before='"),
            ("bench versions --runs=5", "'--runs=5'"),
            ("measure twice", "measure"),
            ("tools now", "tools"),
        ];
        for (line, wanted) in table {
            let problem = parsed(line).expect_err(line);
            assert!(problem.contains(wanted), "{line}: {problem}");
        }
    }
}
