//! For tests of other crates: runs a test of theirs once more in namespaces of its own, where it may mount, or change
//! the network. Depends on nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::process::Command;

/// Set for the run inside.
const INSIDE: &str = "FAIRWAY_TEST_INSIDE";

/// Which namespaces a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// A mount namespace. Nobody has to be root for it, by a user namespace.
    Mount,
    /// A network namespace. Nobody has to be root for it, by a user namespace.
    Network,
    /// A network namespace, with the rights of the host's own root (CAP_BPF).
    NetworkOfRoot,
}

impl Namespaces {
    /// The options of unshare(1).
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Mount => &["--user", "--map-root-user", "--mount"],
            Self::Network => &["--user", "--map-root-user", "--net"],
            Self::NetworkOfRoot => &["--net"],
        }
    }

    /// Whether this is the run in such namespaces, with loopback up. Outside it makes that run of the test of that
    /// name, and waits for it.
    ///
    /// # Panics
    /// The test fails there, or there is none of that name.
    pub fn is_inside(self, test: &str) -> bool {
        if std::env::var_os(INSIDE).is_some() {
            if self != Self::Mount {
                run("ip link set lo up");
            }
            return true;
        }
        let output = Command::new("unshare")
            .args(self.options())
            .arg(std::env::current_exe().expect("a program knows where it is"))
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .expect("unshare(1) of util-linux is there");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains("1 passed"), "there is no test {test}");
        false
    }
}

/// Runs ip(8), tc(8) or another program, and answers with what it says.
///
/// # Panics
/// It fails, or is not there.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
