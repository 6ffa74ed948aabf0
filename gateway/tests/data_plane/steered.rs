//! All tests of this program once more, in a network namespace where external addresses are steered.

use crate::harness::{again_with_steering, is_steered};

#[test]
fn what_holds_with_sockets_holds_with_steering() {
    if is_steered() {
        return;
    }
    let said = again_with_steering(&["--skip", "steered::", "--test-threads", "4"]);
    let passed = said
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    let passed: usize = passed.unwrap().parse().unwrap();
    assert!(passed > 50, "only {passed} tests ran");
}
