//! All tests of this program once more, in a network namespace where external addresses are steered.

use std::process::Command;

use crate::harness::{STEERING, is_steered};

#[test]
fn what_holds_with_sockets_holds_with_steering() {
    if is_steered() {
        return;
    }
    // Steering takes the rights of the host's own root (CAP_BPF).
    let output = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" \"$@\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--skip", "steered::", "--test-threads", "4"])
        .env(STEERING, "1")
        .output()
        .expect("unshare(1) of util-linux is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let passed = said
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed: usize = passed.unwrap().parse().unwrap();
    assert!(passed > 50, "only {passed} tests ran");
}
