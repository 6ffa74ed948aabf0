//! Which programs building and testing need, and how to get those that are missing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::path::search_path;
use crate::step;

/// A program and the Debian package that has it.
type Need = (&'static str, &'static str);

/// What has to be there. Of each package one program stands for the whole.
const NEEDS: &[Need] = &[
    ("bird", "bird2"),
    ("cc", "gcc"),
    ("c++", "g++"),
    ("cmake", "cmake"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("faketime", "faketime"),
    ("go", "golang-go"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("keepalived", "keepalived"),
    ("make", "make"),
    ("nft", "nftables"),
    ("nginx", "nginx"),
    ("prlimit", "util-linux"),
    ("promtool", "prometheus"),
    ("/lib/systemd/systemd", "systemd"),
    ("/usr/lib/frr/bgpd", "frr"),
];

/// What else the benchmark of peers needs. A path that is absolute stands for itself.
const PEERS: &[Need] = &[
    ("strace", "strace"),
    (
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
    ),
];

/// What work is to be done, for which something has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Building and testing.
    Tests,
    /// That, and the benchmark of peers.
    Peers,
}

/// Sees to it that everything is there. With `install`, as root on a machine with apt-get, missing
/// packages are installed; otherwise the error says what is missing and how to get it.
pub(crate) fn ensure(work: Work, install: bool) -> Result<(), String> {
    components()?;
    let lacking = missing(work, &search_path());
    if lacking.is_empty() {
        return Ok(());
    }
    let packages: BTreeSet<&str> = lacking.iter().map(|(_, package)| *package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    if !(install && is_root() && find("apt-get", &search_path()).is_some()) {
        return Err(advice(&lacking, &packages));
    }
    step::timed(&format!("apt-get install {}", packages.join(" ")), || {
        apt(&["update"])?;
        apt(&[
            &["install", "--yes", "--no-install-recommends"],
            packages.as_slice(),
        ]
        .concat())
    })?;
    match missing(work, &search_path()) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => Err(advice(&lacking, &packages)),
    }
}

/// rustfmt and clippy belong to the Rust toolchain and can't come from Debian.
fn components() -> Result<(), String> {
    let lacking: Vec<&str> = [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, command)| {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo
                .args([command, "--version"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            !cargo.status().is_ok_and(|status| status.success())
        })
        .map(|(component, _)| component)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let names = lacking.join(" ");
    Err(format!(
        "the Rust toolchain lacks {names}; get it with: rustup component add {names}"
    ))
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("apt-get {} failed", arguments.join(" "))),
        Err(e) => Err(format!("apt-get could not be run: {e}")),
    }
}

fn missing(work: Work, folders: &[PathBuf]) -> Vec<Need> {
    let more = match work {
        Work::Tests => &[],
        Work::Peers => PEERS,
    };
    NEEDS
        .iter()
        .chain(more)
        .filter(|(program, _)| match program.starts_with('/') {
            true => !Path::new(program).exists(),
            false => find(program, folders).is_none(),
        })
        .copied()
        .collect()
}

fn find(program: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(program))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

fn advice(lacking: &[Need], packages: &[&str]) -> String {
    let programs: Vec<&str> = lacking.iter().map(|(program, _)| *program).collect();
    format!(
        "what is needed is not here: {}\n\
         On Debian or Ubuntu: sudo apt-get install {}\n\
         (or run `cargo xtask test` as root, which does it). On another system install the\n\
         packages that have these programs. Go has to be 1.21 or later: https://go.dev/dl/",
        programs.join(", "),
        packages.join(" "),
    )
}

fn is_root() -> bool {
    fs::metadata(Path::new("/proc/self")).is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_where_it_is_and_only_if_it_can_be_run() {
        let folders = [PathBuf::from("/nowhere"), PathBuf::from("/bin")];
        assert_eq!(find("sh", &folders), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("passwd", &[PathBuf::from("/etc")]), None);
        // What has an absolute path is found without a folder.
        let sought = NEEDS
            .iter()
            .filter(|(program, _)| !program.starts_with('/'));
        let lacking = missing(Work::Tests, &[]);
        assert!(sought.clone().all(|need| lacking.contains(need)));
        assert!(sought.count() > 10);
    }

    #[test]
    fn advice_names_programs_and_packages() {
        let said = advice(&[("dig", "bind9-dnsutils")], &["bind9-dnsutils"]);
        assert!(said.contains("not here: dig\n"), "{said}");
        assert!(said.contains("apt-get install bind9-dnsutils\n"), "{said}");
    }
}
