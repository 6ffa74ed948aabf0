//! Environment variables that are empty, or look like settings of Fairway and are none.

use std::collections::BTreeSet;

/// The prefix of the names of all settings.
const PREFIX: &str = "FAIRWAY_";

/// What tests and builds of Fairway itself use.
const OWN: [&str; 3] = ["FAIRWAY_BIN", "FAIRWAY_LOG", "FAIRWAY_TEST_TOOLS"];

/// From which similarity on a setting is suggested (`strsim::jaro_winkler`; 1.0: the names are the
/// same).
const ALIKE: f64 = 0.85;

/// The command without the variables that are there and empty: an empty one is not set.
pub(crate) fn without_empty(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        match value {
            Some(value) if value.is_empty() => argument.env(None::<&str>),
            _ => argument,
        }
    });
    let names: Vec<String> = command
        .get_subcommands()
        .map(|it| it.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, without_empty)
    })
}

/// A sentence about each variable of the environment that is named as a setting of Fairway and is none
/// of `command` or its subcommands.
pub(crate) fn warnings<'a>(
    command: &clap::Command,
    names: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut settings: BTreeSet<String> = OWN.map(str::to_owned).into();
    note(command, &mut settings);
    names
        .filter(|name| name.starts_with(PREFIX) && !settings.contains(*name))
        .filter(|name| !is_of_a_service(name) && !name.starts_with("FAIRWAY_TEST_"))
        .map(|name| {
            let meant = settings
                .iter()
                .map(|setting| (alike(name, setting), setting))
                .filter(|(alike, _)| *alike >= ALIKE)
                .max_by(|(one, _), (other, _)| one.total_cmp(other));
            let front = format!("the environment variable {name} is no setting of Fairway");
            match meant {
                Some((_, setting)) => format!("{front}: is {setting} meant?"),
                None => format!("{front} and does nothing"),
            }
        })
        .collect()
}

/// The similarity of two names without the common prefix.
fn alike(name: &str, setting: &str) -> f64 {
    let rest = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    strsim::jaro_winkler(&rest(name), &rest(setting))
}

fn note(command: &clap::Command, settings: &mut BTreeSet<String>) {
    for argument in command.get_arguments() {
        let name = argument.get_env();
        settings.extend(name.map(|name| name.to_string_lossy().into_owned()));
    }
    for command in command.get_subcommands() {
        note(command, settings);
    }
}

/// Whether Kubernetes has set it for a Service whose name begins with `fairway`
/// (`FAIRWAY_SERVICE_HOST`, `FAIRWAY_PORT_9901_TCP_ADDR`).
fn is_of_a_service(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let holds = ["_SERVICE_PORT_", "_PORT_"];
    ends.iter().any(|it| name.ends_with(it)) || holds.iter().any(|it| name.contains(it))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn what_is_misspelt_is_named_with_what_is_meant() {
        let warnings = |name: &str| {
            let command = crate::args::Cli::command();
            super::warnings(&command, [name].into_iter()).join("")
        };
        for (name, meant) in [
            ("FAIRWAY_STAET", "is FAIRWAY_STATE meant?"),
            ("FAIRWAY_MANIFEST", "is FAIRWAY_MANIFESTS meant?"),
            ("FAIRWAY_DRAIN_TIME", "is FAIRWAY_DRAIN_TIMEOUT meant?"),
            ("FAIRWAY_LOGS", "is FAIRWAY_LOG meant?"),
            ("FAIRWAY_X", "does nothing"),
        ] {
            assert!(warnings(name).contains(meant), "{}", warnings(name));
        }
        for name in [
            "FAIRWAY_STATE",
            "FAIRWAY_LOG",
            "FAIRWAY_NODE_PORT_RANGE",
            "FAIRWAY_SERVICE_HOST",
            "FAIRWAY_SERVICE_PORT_METRICS",
            "FAIRWAY_PORT",
            "FAIRWAY_METRICS_PORT_9902_TCP_ADDR",
            "HOME",
        ] {
            assert_eq!(warnings(name), "", "{name}");
        }
    }
}
