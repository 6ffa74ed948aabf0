//! Network namespaces for tests.

use std::process::Command;

/// Set for the run inside.
const INSIDE: &str = "FAIRWAY_TEST_INSIDE";

/// Whether this is the run in a network namespace of its own. Outside it makes that run, with the rights of the host's
/// own root (CAP_BPF), and waits for it.
pub(super) fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return true;
    }
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
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

/// Runs ip(8) or tc(8).
pub(super) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    let output = output.expect("iproute2 is there");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
