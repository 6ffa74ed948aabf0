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
    /// `bench failover`.
    Failover {
        /// How often each departure is measured; nothing: as often as usual.
        runs: Option<u32>,
    },
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
            (flags, Some(filter)) if filter == "failover" => {
                let runs = flags.first().map(|flag| runs(flag)).transpose()?;
                match flags.get(1) {
                    None => Ok(Ask::Failover { runs }),
                    Some(flag) => Err(format!("bench failover has no option '{flag}' besides")),
                }
            }
            (flags, filter) if flags.is_empty() => Ok(Ask::Bench { filter }),
            (flags, _) => Err(format!("bench has no option '{}'", flags.join(" "))),
        },
        "measure" if rest.is_empty() => Ok(Ask::Measure),
        "tools" if rest.is_empty() => Ok(Ask::Tools),
        "measure" | "tools" => Err(format!("{command} takes no arguments")),
        _ => Err(format!("there is no command '{command}'")),
    }
}

/// What `--runs=N` says.
fn runs(flag: &str) -> Result<u32, String> {
    let number = flag.strip_prefix("--runs=");
    let number = number.ok_or_else(|| format!("bench failover has no option '{flag}'"))?;
    match number.parse() {
        Ok(runs @ 1..) => Ok(runs),
        _ => Err(format!("'{number}' is no number of runs")),
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
            ("bench failover", Ok(Ask::Failover { runs: None })),
            (
                "bench failover --runs=5",
                Ok(Ask::Failover { runs: Some(5) }),
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
            ("bench failover --runs=none", "'none'"),
            ("bench failover --runs=0", "'0'"),
            ("bench failover --runs=5 --fast", "'--fast'"),
            ("measure twice", "measure"),
            ("tools now", "tools"),
        ];
        for (line, wanted) in table {
            let problem = parsed(line).expect_err(line);
            assert!(problem.contains(wanted), "{line}: {problem}");
        }
    }
}
